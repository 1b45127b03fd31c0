"""Optimizers and learning-rate schedules.

AdamW is PyTorch's fused one. Muon is our own: GPT-2 stores Q, K and V in one matrix, and they must be orthogonalized
separately (Jordan et al. 2024, "Muon: An optimizer for hidden layers"); ours also batches matrices of equal shape.

Clipping, loss scaling and skipping a step with a non-finite gradient all happen inside the update, through the two
tensors that PyTorch's fused optimizers accept (`grad_scale`, `found_inf`), so the host never waits for the device.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from gptworks.devices import out_of_memory
from gptworks.errors import ResourceError
from gptworks.host_memory import release_memory
from gptworks.recipe import OptimOptions
from gptworks.train.param_shards import MatrixExchange

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Momentum SGD whose updates are orthogonalized by Newton-Schulz iteration, for the matrices inside blocks.

    A parameter named `...c_attn.weight` counts as three matrices. `dtype` is the dtype of the iteration. With an
    `exchange`, each parameter is this process's rows of a matrix.
    """

    def __init__(
        self,
        params: list[tuple[str, nn.Parameter]],
        options: OptimOptions,
        dtype: torch.dtype,
        exchange: MatrixExchange | None = None,
    ) -> None:
        defaults = {
            "lr": options.muon_lr,
            "momentum": options.muon_momentum,
            "weight_decay": options.weight_decay,
        }
        super().__init__([param for _, param in params], defaults)
        self.n_matrices = {param: 3 if name.endswith("c_attn.weight") else 1 for name, param in params}
        self.dtype, self.exchange = dtype, exchange
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None
        self.momentum_done: set[nn.Parameter] = set()
        """Parameters whose momentum this step has already updated, so that a retry after running out of memory does
        not update it twice."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - torch's signature
        group = self.param_groups[0]
        params = [param for param in group["params"] if param.grad is not None]
        updates = [self._momentum(param, group["momentum"]) for param in params]
        keep = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        rate = keep * group["lr"]
        if self.exchange is None:
            steps = self._orthogonalized(dict(enumerate(updates)), params, rate)
            ordered = [steps[index] for index in range(len(params))]
        else:
            matrices = self.exchange.collect(updates)
            ordered = self.exchange.scatter_back(self._orthogonalized(matrices, params, rate), updates)
        for param, step in zip(params, ordered, strict=True):
            param.mul_(1.0 - rate * group["weight_decay"])
            param.sub_(step)
        self.momentum_done.clear()

    def _orthogonalized(
        self, updates: dict[int, Tensor], params: list[nn.Parameter], rate: Tensor | float
    ) -> dict[int, Tensor]:
        """Full-matrix updates -> steps, both by index into `params`; matrices of equal shape are batched."""
        by_shape: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        for index, update in updates.items():
            n = self.n_matrices[params[index]]
            shape = (update.shape[0] // n, update.shape[1])
            by_shape.setdefault(shape, []).append((index, update.view(n, *shape)))
        steps = {}
        for (rows, columns), pairs in by_shape.items():
            stacked = torch.cat([update for _, update in pairs])  # (N, rows, columns)
            scale = rate * math.sqrt(max(1.0, rows / columns))
            scaled = orthogonalize(stacked, self.dtype).to(stacked.dtype) * scale
            for (index, _), step in zip(pairs, scaled.split([len(u) for _, u in pairs]), strict=True):
                steps[index] = step.reshape(-1, columns)
        return steps

    def _momentum(self, param: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov look-ahead of the momentum buffer; a skipped step leaves the buffer unchanged."""
        assert param.grad is not None
        grad = param.grad if self.grad_scale is None else param.grad / self.grad_scale
        buffer = self.state[param].setdefault("momentum_buffer", torch.zeros_like(param))
        if self.found_inf is not None:
            grad = torch.where(self.found_inf.bool(), buffer, grad)  # lerp towards itself: no change
        if param not in self.momentum_done:
            buffer.lerp_(grad, 1 - momentum)
            self.momentum_done.add(param)
        return grad.lerp(buffer, momentum)


def orthogonalize(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, rows, columns) matrices -> the nearest with singular values near 1, by five quintic Newton-Schulz steps."""
    a, b, c = NS_COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    # Normalize before casting: float16 can hold neither tiny nor huge gradients.
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-30)).to(dtype)
    for _ in range(NS_STEPS):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    params: Iterable[tuple[str, nn.Parameter]],
    options: OptimOptions,
    device: torch.device,
    dtype: torch.dtype,
    exchange: Callable[[Sequence[str]], MatrixExchange | None] = lambda _: None,
) -> list[torch.optim.Optimizer]:
    """AdamW over all trainable parameters, or Muon for the blocks' matrices and AdamW for the rest.

    If `params` are only this process's rows, `exchange(names)` returns the exchange that assembles these matrices.
    """
    named = [(name, param) for name, param in params if param.requires_grad]
    matrices = [(name, param) for name, param in named if options.name == "muon" and _in_block(name, param)]
    with_muon = {id(param) for _, param in matrices}
    rest = [param for _, param in named if id(param) not in with_muon]
    decays = {id(param) for param in rest if param.dim() >= 2 or options.weight_decay_on == "all"}
    groups = [
        {"params": [p for p in rest if id(p) in decays], "weight_decay": options.weight_decay},
        {"params": [p for p in rest if id(p) not in decays], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        fused=device.type in {"cpu", "cuda"},
    )
    if not matrices:
        return [adamw]
    return [Muon(matrices, options, dtype, exchange([name for name, _ in matrices])), adamw]


def _in_block(name: str, param: nn.Parameter) -> bool:
    return param.dim() == 2 and (".h." in name or ".layers." in name)


def set_learning_rates(
    optimizers: Iterable[torch.optim.Optimizer], options: OptimOptions, factor: float
) -> None:
    """Set every optimizer's learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        peak = options.muon_lr if isinstance(optimizer, Muon) else options.lr
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def lr_factor(step: int, max_steps: int, options: OptimOptions) -> float:
    """Learning rate of step 0, 1, ... as a fraction of the peak: linear warmup, then optim.schedule."""
    warmup = options.warmup_steps
    if options.warmup_fraction is not None:
        warmup = round(options.warmup_fraction * max_steps)
    if step < warmup:
        return (step + 1) / warmup
    end = options.decay_steps or max_steps
    begin = warmup
    if options.schedule == "wsd":
        begin = max(begin, end - round(options.cooldown * end))
    progress = min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
    floor, span = options.final_lr, 1 - options.final_lr
    match options.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return floor + span * 0.5 * (1 + math.cos(math.pi * progress))
        case "quarter-cosine":
            return floor + span * math.cos(math.pi / 2 * progress)
        case _:  # linear, and wsd's cooldown
            return floor + span * (1 - progress)


def update(
    optimizers: list[torch.optim.Optimizer],
    norm: Tensor,
    clip: float,
    scale: Tensor | None,
    skip: Tensor | None = None,
) -> Tensor:
    """One optimizer step on unscaled, clipped gradients; returns 1.0 if it was skipped, else 0.0.

    `norm` is the 2-norm of the gradients as stored, that is, multiplied by `scale` if there is one. A non-finite norm
    or a nonzero `skip` leaves weights and optimizer state unchanged.
    """
    found_inf = (~torch.isfinite(norm)).float()
    if skip is not None:
        found_inf = torch.maximum(found_inf, skip.float())
    divide_by = torch.ones_like(norm) if scale is None else scale.clone()
    if clip:
        divide_by = divide_by * torch.clamp(torch.nan_to_num(norm / divide_by, 0.0, 0.0) / clip, min=1.0)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon) or optimizer.defaults["fused"]:
            optimizer.grad_scale, optimizer.found_inf = divide_by, found_inf  # type: ignore[attr-defined]
            _step_with_retry(optimizer)
        elif not found_inf:  # waits for the device, but only where PyTorch has no fused AdamW
            for param in (param for group in optimizer.param_groups for param in group["params"]):
                if param.grad is not None:
                    param.grad.div_(divide_by)
            _step_with_retry(optimizer)
    return found_inf


def _step_with_retry(optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step. If memory runs out, free what can be freed and finish the step once more.

    Raises:
        ResourceError: memory runs out again.
    """
    for last in (False, True):
        try:
            _allocate_moments(optimizer)
            optimizer.step()
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if last:
            break
        release_memory()
    raise ResourceError(
        "out of memory in the optimizer's update; a smaller micro-batch does not shrink optimizer state: shard it "
        "across devices (torchrun with --train.parallel zero1, then fsdp), or use a smaller --model.preset or n-embd"
    )


def _allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Create AdamW's state before its first step, which could run out of memory with some groups already updated."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        for param in group["params"]:
            if param.grad is not None and not optimizer.state[param]:
                device = param.device if group["fused"] else torch.device("cpu")
                first, second = (
                    torch.zeros_like(param, memory_format=torch.preserve_format) for _ in range(2)
                )
                optimizer.state[param] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": first,
                    "exp_avg_sq": second,
                }
