"""Cross-entropy of a linear head, without ever holding a step's logits.

The head's logits are the largest tensor of a language model by far (a GPT-2 micro-batch of 16 x 1024 tokens
has 3.3 GB of them). Here they exist for a chunk of tokens at a time: forward turns a chunk into its loss and
at once into its share of both gradients, backward only scales these. The idea is Liger Kernel's (Hsu et al.
2024, "Liger Kernel: Efficient Triton Kernels for LLM Training", section 3.2); the same in PyTorch runs
everywhere.

Shapes: N tokens, C width, V vocabulary with padding, n tokens in a chunk.
"""

from typing import Any

import torch
from torch import Tensor

from gptworks.model import native

IGNORE = -100
"""Target that is not learned, as in PyTorch and transformers."""

CHUNK_BYTES = {"cpu": 1 << 27, "cuda": 3 << 28}
"""How much memory a chunk's logits may take."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, chunk: int | None = None
) -> Tensor:
    """Cross-entropy in nats of (N, C) hidden states read by a (V, C) head, summed over targets but IGNORE.

    Ids from `vocab_size` on are padding and get no probability. `chunk` is how many tokens are done at a
    time; None chooses. Products are taken in autocast's dtype if it is on, else in the tensors' own; sums in
    float32.
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
    """How many tokens are done at a time."""
    return max(
        64, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (bytes_per_logit(dtype, device) * padded_vocab)
    )


def bytes_per_logit(dtype: torch.dtype, device: str) -> int:
    """What a chunk holds for each logit: the product, and a float32 score beside it where that is another tensor."""
    return dtype.itemsize if dtype.itemsize >= 4 or _compiled(dtype, device) else dtype.itemsize + 4


class _Chunks:
    """Losses and gradients of one chunk of tokens after another, in the same memory."""

    def __init__(self, weight: Tensor, vocab_size: int, size: int) -> None:
        self.weight, self.vocab_size, self.size = weight, vocab_size, size
        self.products = weight.new_empty(size, len(weight))
        self.compiled = _compiled(weight.dtype, weight.device.type)
        exact = self.compiled or weight.dtype in {torch.float32, torch.float64}
        self.scores = self.products if exact else torch.empty_like(self.products, dtype=torch.float32)

    def nats(self, hidden: Tensor, targets: Tensor, *, gradient: bool) -> Tensor:
        """(n, C) hidden states in the weight's dtype, (n,) targets -> their summed loss.

        With `gradient`, `products` then holds the loss's (n, V) by the logits, right where targets are learned.
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
        """The summed loss alone."""
        chunks = zip(hidden.split(self.size), targets.split(self.size), strict=True)
        nats = [self.nats(h.to(self.weight.dtype), t, gradient=False) for h, t in chunks]
        return torch.stack(nats).sum() if nats else _zero(self.scores)


def _compiled(dtype: torch.dtype, device: str) -> bool:
    """Whether logits are turned into losses and gradients by native.c."""
    return dtype == torch.bfloat16 and device == "cpu" and native.kernels() is not None


def _zero(scores: Tensor) -> Tensor:
    """To sum losses in: float32 at least."""
    return scores.new_zeros((), dtype=torch.promote_types(scores.dtype, torch.float32))


def _nats(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over the targets that are learned."""
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
            learned = (t != IGNORE)[:, None].to(head.dtype)  # masks (n, C): cheaper than masking grad
            if grad_hidden is not None:
                grad_hidden[part] = (grad @ head) * learned
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, h * learned)
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
