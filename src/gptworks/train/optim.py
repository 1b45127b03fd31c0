"""Optimizers and learning rates.

AdamW is PyTorch's, fused. Muon is ours because GPT-2 keeps Q, K and V in one matrix, which must be orthogonalised apart
(Jordan et al. 2024, "Muon: An optimizer for hidden layers"), and because matrices of one shape go through together.

Clipping, loss scaling and the skipping of a step whose gradient is not finite all happen inside the update, through
the two tensors that PyTorch's fused optimizers take (`grad_scale`, `found_inf`): the host never waits to know.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from gptworks.errors import ResourceError
from gptworks.recipe import OptimOptions
from gptworks.world import out_of_memory, release_memory

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5


class Exchange(Protocol):
    """How matrices, of which processes have some rows each, become whole, each on one process, and are handed back."""

    def collect(self, parts: Sequence[Tensor]) -> dict[int, Tensor]: ...

    def hand_back(self, matrices: dict[int, Tensor], like: Sequence[Tensor]) -> list[Tensor]: ...


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz iteration, for the matrices inside blocks.

    Parameters named `...c_attn.weight` are three matrices in one. `dtype` is what the iteration computes in.
    With an `exchange`, parameters are this process's rows of matrices.
    """

    def __init__(
        self,
        params: list[tuple[str, nn.Parameter]],
        options: OptimOptions,
        dtype: torch.dtype,
        exchange: Exchange | None = None,
    ) -> None:
        defaults = {
            "lr": options.matrix_lr,
            "momentum": options.momentum,
            "weight_decay": options.weight_decay,
        }
        super().__init__([param for _, param in params], defaults)
        self.parts = {param: 3 if name.endswith("c_attn.weight") else 1 for name, param in params}
        self.dtype, self.exchange = dtype, exchange
        self.grad_scale: Tensor | None = None
        self.moved: set[nn.Parameter] = set()
        """Whose momentum has been moved in this step: if memory runs out, the step is gone on with."""
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002 - torch's signature
        group = self.param_groups[0]
        params = [param for param in group["params"] if param.grad is not None]
        updates = [self._momentum(param, group["momentum"]) for param in params]
        keep = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        rate = keep * group["lr"]
        if self.exchange is None:
            steps = self._orthogonal(dict(enumerate(updates)), params, rate)
            ordered = [steps[index] for index in range(len(params))]
        else:
            whole = self.exchange.collect(updates)
            ordered = self.exchange.hand_back(self._orthogonal(whole, params, rate), updates)
        for param, step in zip(params, ordered, strict=True):
            param.mul_(1.0 - rate * group["weight_decay"])
            param.sub_(step)
        self.moved.clear()

    def _orthogonal(
        self, updates: dict[int, Tensor], params: list[nn.Parameter], rate: Tensor | float
    ) -> dict[int, Tensor]:
        """Steps from whole updates, by the number of their parameter; matrices of one shape go through together."""
        by_shape: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        for index, update in updates.items():
            n = self.parts[params[index]]
            shape = (update.shape[0] // n, update.shape[1])
            by_shape.setdefault(shape, []).append((index, update.view(n, *shape)))
        steps = {}
        for (rows, columns), pairs in by_shape.items():
            stacked = torch.cat([update for _, update in pairs])  # (N, rows, columns)
            scale = rate * math.sqrt(max(1.0, rows / columns))
            made = orthogonalise(stacked, self.dtype).to(stacked.dtype) * scale
            for (index, _), step in zip(pairs, made.split([len(u) for _, u in pairs]), strict=True):
                steps[index] = step.reshape(-1, columns)
        return steps

    def _momentum(self, param: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's look-ahead of the running gradient; unchanged by a step that is to be skipped."""
        assert param.grad is not None
        grad = param.grad if self.grad_scale is None else param.grad / self.grad_scale
        buffer = self.state[param].setdefault("momentum_buffer", torch.zeros_like(param))
        if self.found_inf is not None:
            grad = torch.where(self.found_inf.bool(), buffer, grad)  # lerp towards itself: no change
        if param not in self.moved:
            buffer.lerp_(grad, 1 - momentum)
            self.moved.add(param)
        return grad.lerp(buffer, momentum)


def orthogonalise(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, rows, columns) matrices -> the nearest with singular values near 1, by five quintic Newton-Schulz steps."""
    a, b, c = NS_COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    # Normed before it is narrowed: float16 holds neither tiny nor huge gradients.
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
    exchange: Callable[[Sequence[str]], Exchange | None] = lambda _: None,
) -> list[torch.optim.Optimizer]:
    """AdamW over everything trainable, or Muon for the blocks' matrices and AdamW for the rest.

    Where parameters are only rows of a model's, `exchange` says how the matrices of these names become whole.
    """
    named = [(name, param) for name, param in params if param.requires_grad]
    matrices = [(name, param) for name, param in named if options.kind == "muon" and _in_block(name, param)]
    chosen = {id(param) for _, param in matrices}
    rest = [param for _, param in named if id(param) not in chosen]
    decays = {id(param) for param in rest if param.dim() >= 2 or options.decay == "all"}
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


def set_rates(optimizers: Iterable[torch.optim.Optimizer], options: OptimOptions, factor: float) -> None:
    """Set the learning rates for the step that follows: `factor` of each peak."""
    for optimizer in optimizers:
        peak = options.matrix_lr if isinstance(optimizer, Muon) else options.lr
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def lr_factor(step: int, max_steps: int, options: OptimOptions) -> float:
    """Learning rate of step 0, 1, ... as a fraction of the peak: linear warm-up, then the schedule's shape."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    end = options.decay_steps or max_steps
    begin = options.warmup_steps
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
        case _:  # linear, and wsd's cool-down
            return floor + span * (1 - progress)


def total_norm(model: nn.Module) -> Tensor:
    """2-norm of all gradients together."""
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    return torch.nn.utils.get_total_norm(grads)


def update(
    optimizers: list[torch.optim.Optimizer],
    norm: Tensor,
    clip: float,
    scale: Tensor | None,
    refused: Tensor | None = None,
) -> Tensor:
    """One update with the gradients scaled back and clipped; a step whose gradient is not finite changes nothing.

    `norm` is of the gradients as they are, times `scale` if there is one. A step that is `refused` for other reasons
    changes nothing either. Returns 1.0 if the step was skipped.
    """
    found_inf = (~torch.isfinite(norm)).float()
    if refused is not None:
        found_inf = torch.maximum(found_inf, refused.float())
    divide_by = torch.ones_like(norm) if scale is None else scale.clone()
    if clip:
        divide_by = divide_by * torch.clamp(torch.nan_to_num(norm / divide_by, 0.0, 0.0) / clip, min=1.0)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon) or optimizer.defaults["fused"]:
            optimizer.grad_scale, optimizer.found_inf = divide_by, found_inf  # type: ignore[attr-defined]
            _finish(optimizer)
        elif not found_inf:  # waits for the device: only where there is no fused optimizer
            for param in (param for group in optimizer.param_groups for param in group["params"]):
                if param.grad is not None:
                    param.grad.div_(divide_by)
            _finish(optimizer)
    return found_inf


def _finish(optimizer: torch.optim.Optimizer) -> None:
    """One step. Where memory runs out in it, what can be freed is freed and the step gone on with, not done twice.

    Raises:
        ResourceError: memory runs out again.
    """
    for last in (False, True):
        try:
            _make_moments(optimizer)
            optimizer.step()
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if last:
            break
        release_memory()
    raise ResourceError(
        "memory ran out in the optimizer's update, whose state a smaller micro-batch does not shrink: share it among "
        "several devices (torchrun, --train.parallel zero1, then fsdp), or take a smaller --model.preset or n-embd"
    )


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW's state, as its first step would make it: there, memory could run out with some groups updated already."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        for param in group["params"]:
            if param.grad is not None and not optimizer.state[param]:
                device = param.device if group["fused"] else torch.device("cpu")
                moments = [torch.zeros_like(param, memory_format=torch.preserve_format) for _ in range(2)]
                optimizer.state[param] = {
                    "step": torch.zeros((), dtype=torch.float32, device=device),
                    "exp_avg": moments[0],
                    "exp_avg_sq": moments[1],
                }
