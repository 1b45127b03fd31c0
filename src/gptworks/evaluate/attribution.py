"""Which tokens of a text mattered to a classifier.

What is explained is the log-odds of a class, log p / (1 - p) in nats, which unlike the probability does not flatten out
where the model is sure; or the number that a model predicts. Two answers to the question:

Leave-one-out (Li et al. 2016, "Understanding Neural Networks through Representation Erasure"): how much is lost when
the token is not there. A forward pass of the text for each of its tokens.

Gradient times input (Shrikumar et al. 2016, "Not Just a Black Box", section 2): the slope as a token's embedding is
scaled. One backward pass, and blind to what saturates.

Tokens that only together make a character count as one. Shapes: T tokens, U units, C n_embd, K classes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gptworks.model import classifier
from gptworks.model.classifier import Classifier
from gptworks.text.tokenizer import StreamDecoder, Tokenizer

Units = Sequence[tuple[str, int]]
"""Text, and number of tokens."""


def units(ids: np.ndarray, tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Text and number of tokens of each unit; together they are the text of all ids."""
    decoder, made, waiting = StreamDecoder(tokenizer), [], 0
    for id in ids.tolist():
        waiting += 1
        if text := decoder.push(id):
            made.append((text, waiting))
            waiting = 0
    if rest := decoder.end():
        made.append((rest, waiting))
    return made


def log_odds(scores: Tensor, target: int) -> Tensor:
    """(N, K) scores of texts -> (N,) log-odds of class `target` in nats; with K = 1, the number predicted."""
    others = torch.cat([scores[:, :target], scores[:, target + 1 :]], dim=1)
    return scores[:, target] - others.logsumexp(1) if others.shape[1] else scores[:, 0]


def leave_one_out(
    model: Classifier, ids: np.ndarray, parts: Units, target: int, padding: int
) -> list[float | None]:
    """(U,) what the log-odds lose without each unit; None for a text that is a single one."""
    if len(parts) == 1:
        return [None]
    ends = np.cumsum([n for _, n in parts])
    rows = [ids] + [np.delete(ids, range(end - n, end)) for (_, n), end in zip(parts, ends, strict=True)]
    odds = log_odds(classifier.predict(model, rows, padding), target)
    return (odds[0] - odds[1:]).tolist()


def gradient_x_input(
    model: Classifier, ids: np.ndarray, parts: Units, target: int, padding: int
) -> list[float | None]:
    """(U,) slopes of the log-odds as each unit's token embeddings are scaled, at their real size."""
    batch = classifier.collate([ids], padding)
    device = model.score.weight.device
    leaves: list[Tensor] = []

    def tap(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    hook = embedding(model).register_forward_hook(tap)
    try:
        with torch.enable_grad():
            odds = log_odds(model(batch["ids"].to(device), batch["ends"].to(device)), target)
            (slope,) = torch.autograd.grad(odds.sum(), leaves)
    finally:
        hook.remove()
    each = (slope * leaves[0])[0].detach().float().sum(-1).cpu()  # (T,)
    return [float(part.sum()) for part in each.split([n for _, n in parts])]


def embedding(model: Classifier) -> torch.nn.Module:
    """What makes vectors of a classifier's tokens, before positions are added."""
    name = {"transformer": "wte", "model": "embed_tokens"}[model.body_name]
    return model.get_submodule(f"{model.body_name}.{name}")


METHODS: dict[str, Callable[[Classifier, np.ndarray, Units, int, int], list[float | None]]] = {
    "leave_one_out": leave_one_out,
    "gradient_x_input": gradient_x_input,
}
