"""How much each token of a text contributes to a classifier's prediction.

The explained quantity is the log-odds of a class, log p / (1 - p) in nats, which does not saturate when the model is
confident as the probability does; or the output of a regression. There are two methods:

Leave-one-out (Li et al. 2016, "Understanding Neural Networks through Representation Erasure"): the drop when a token
is removed. One forward pass for each token.

Gradient times input (Shrikumar et al. 2016, "Not Just a Black Box", section 2): the derivative with respect to the
scale of a token's embedding. One backward pass, which misses saturated features.

Tokens that form one character only together count as one unit. Shapes: T tokens, U units, C n_embd, K classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gptworks.model import classifier
from gptworks.model.classifier import ClassifierModel
from gptworks.text.tokenizer import StreamDecoder, Tokenizer

Units = Sequence[tuple[str, int]]
"""The text of each unit, and its number of tokens."""


def units(ids: np.ndarray, tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Split ids into units, whose texts together are the text of all ids."""
    decoder, pieces, n_tokens = StreamDecoder(tokenizer), [], 0
    for id in ids.tolist():
        n_tokens += 1
        if text := decoder.push(id):
            pieces.append((text, n_tokens))
            n_tokens = 0
    if rest := decoder.end():
        pieces.append((rest, n_tokens))
    return pieces


def log_odds(scores: Tensor, target: int) -> Tensor:
    """(N, K) logits -> (N,) log-odds of class `target` in nats; with K = 1, the predicted number."""
    others = torch.cat([scores[:, :target], scores[:, target + 1 :]], dim=1)
    return scores[:, target] - others.logsumexp(1) if others.shape[1] else scores[:, 0]


def leave_one_out(
    model: ClassifierModel, ids: np.ndarray, parts: Units, target: int, padding: int
) -> list[float | None]:
    """(U,) drop in log-odds when a unit is removed; None if it is the only one."""
    if len(parts) == 1:
        return [None]
    ends = np.cumsum([n for _, n in parts])
    rows = [ids] + [np.delete(ids, range(end - n, end)) for (_, n), end in zip(parts, ends, strict=True)]
    odds = log_odds(classifier.predict(model, rows, padding), target)
    return (odds[0] - odds[1:]).tolist()


def gradient_x_input(
    model: ClassifierModel, ids: np.ndarray, parts: Units, target: int, padding: int
) -> list[float | None]:
    """(U,) derivatives of the log-odds with respect to the scale of each unit's token embeddings, at scale 1."""
    batch = classifier.collate([ids], padding)
    device = model.score.weight.device
    embedded: list[Tensor] = []

    def tap(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = embedding(model).register_forward_hook(tap)
    try:
        with torch.enable_grad():
            odds = log_odds(model(batch["ids"].to(device), batch["ends"].to(device)), target)
            (slope,) = torch.autograd.grad(odds.sum(), embedded)
    finally:
        hook.remove()
    each = (slope * embedded[0])[0].detach().float().sum(-1).cpu()  # (T,)
    return [float(part.sum()) for part in each.split([n for _, n in parts])]


def embedding(model: ClassifierModel) -> torch.nn.Module:
    """The token embedding, before positions are added."""
    name = {"transformer": "wte", "model": "embed_tokens"}[model.body_name]
    return model.get_submodule(f"{model.body_name}.{name}")


METHODS: dict[str, Callable[[ClassifierModel, np.ndarray, Units, int, int], list[float | None]]] = {
    "leave_one_out": leave_one_out,
    "gradient_x_input": gradient_x_input,
}
