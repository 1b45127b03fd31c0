"""Cross-entropy of a linear head that never holds all logits of a step.

The logits are by far the largest tensor of a language model: 3.3 GB for a GPT-2 micro-batch of 16 x 1024 tokens. Here
they exist for one chunk of tokens at a time. The forward pass computes a chunk's loss and its part of both gradients;
the backward pass only scales them. The idea is Liger Kernel's (Hsu et al. 2024, "Liger Kernel: Efficient Triton Kernels
for LLM Training", section 3.2); in PyTorch it runs everywhere.

Shapes: N tokens, C n_embd, V vocabulary with padding, n tokens in a chunk.
"""

from typing import Any

import torch
from torch import Tensor

from gptworks.model import native
from gptworks.text.vocabulary import IGNORE

CHUNK_BYTES = {"cpu": 1 << 27, "cuda": 3 << 28}
"""Memory for a chunk's logits, by device type."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int | None = None
) -> Tensor:
    """Cross-entropy in nats of (N, C) hidden states under a (V, C) head, summed over (N,) targets other than IGNORE.

    Ids from `vocab_size` on are padding and get no probability. `chunk` is in tokens; None derives it from CHUNK_BYTES.
    Products use autocast's dtype if it is on, else the tensors' own; sums use float32.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    else:
        dtype = torch.promote_types(hidden.dtype, weight.dtype)
    size = chunk or chunk_tokens(len(weight), dtype, device)
    with torch.autocast(device, enabled=False):
        chunks = _Chunks(weight.detach().to(dtype), vocab_size, min(size, max(1, len(hidden))))
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunks)  # type: ignore[assignment] # not annotated
            return loss
        return chunks.loss(hidden, targets)


def chunk_tokens(padded_vocab: int, dtype: torch.dtype, device: str) -> int:
    """Tokens per chunk."""
    available = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"])
    return max(64, available // (bytes_per_logit(dtype, device) * padded_vocab))


def bytes_per_logit(dtype: torch.dtype, device: str) -> int:
    """Bytes per logit of a chunk: the product, and a float32 copy of it unless the product itself will do."""
    return dtype.itemsize if dtype.itemsize >= 4 or _compiled(dtype, device) else dtype.itemsize + 4


class _Chunks:
    """Computes one chunk of tokens after another in the same buffers."""

    def __init__(self, weight: Tensor, vocab_size: int, size: int) -> None:
        self.weight, self.vocab_size, self.size = weight, vocab_size, size
        self.products = weight.new_empty(size, len(weight))
        self.compiled = _compiled(weight.dtype, weight.device.type)
        exact = self.compiled or weight.dtype in {torch.float32, torch.float64}
        self.scores = self.products if exact else torch.empty_like(self.products, dtype=torch.float32)

    def nats(self, hidden: Tensor, targets: Tensor, *, gradient: bool) -> Tensor:
        """(n, C) hidden states in the weight's dtype, (n,) targets -> their summed loss.

        With `gradient`, `products` then holds the (n, V) gradient of the logits. Rows of ignored targets are undefined.
        """
        n = len(hidden)
        logits = torch.mm(hidden, self.weight.T, out=self.products[:n])
        if self.compiled:
            return native.cross_entropy(logits, targets, self.vocab_size, gradient=gradient).sum()
        logits[:, self.vocab_size :] = -torch.inf
        scores = self.scores[:n]
        if scores.dtype != logits.dtype:
            scores.copy_(logits)
        log_probs = torch.log_softmax(scores, -1, out=scores)
        total = _nats(log_probs, targets)
        if gradient:
            grad = log_probs.exp_()
            grad.scatter_add_(1, targets.clamp(min=0)[:, None], grad.new_full((n, 1), -1.0))
            if grad.dtype != logits.dtype:
                logits.copy_(grad)
        return total

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The summed loss, without gradients."""
        pairs = zip(hidden.split(self.size), targets.split(self.size), strict=True)
        nats = [self.nats(h.to(self.weight.dtype), t, gradient=False) for h, t in pairs]
        return torch.stack(nats).sum() if nats else _zero(self.scores)


def _compiled(dtype: torch.dtype, device: str) -> bool:
    """Whether native.c computes losses and gradients from the logits."""
    return dtype == torch.bfloat16 and device == "cpu" and native.kernels() is not None


def _zero(scores: Tensor) -> Tensor:
    """A zero to sum losses in, at least float32."""
    return scores.new_zeros((), dtype=torch.promote_types(scores.dtype, torch.float32))


def _nats(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over the targets that are not IGNORE."""
    chosen = log_probs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return -torch.where(targets == IGNORE, 0.0, chosen).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunks: _Chunks) -> Tensor:
        head, size = chunks.weight, chunks.size
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = _zero(chunks.scores)
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            h, t = hidden[part].to(head.dtype), targets[part]
            total += chunks.nats(h, t, gradient=True)
            grad = chunks.products[: len(h)]
            mask = (t != IGNORE)[:, None].to(head.dtype)  # masks (n, C), which is cheaper than masking grad
            if grad_hidden is not None:
                grad_hidden[part] = (grad @ head) * mask
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, h * mask)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_outputs[0] for grad in ctx.saved_tensors)
        return *grads, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
