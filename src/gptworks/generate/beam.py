"""Beam search: the likeliest continuations, looked for along several at a time.

Exactly transformers' search with its default `early_stopping=False`: it ends when the best open beam, scored
at its present length, is no better than the worst of `beams` finished ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gptworks.generate.continuation import Continuation
from gptworks.generate.settings import GenerateSettings


@dataclass(frozen=True)
class Beam:
    """A continuation."""

    ids: list[int]
    """Without the end of text."""
    log_prob: float
    ended: bool = False
    """It came to the end of text."""
    score: float = 0.0
    """Of a finished one: log_prob / length ** length_penalty, the end of text being part of the length."""


def search(
    run: Continuation, prompt: list[int], n_new: int, eos_id: int | None, settings: GenerateSettings
) -> list[Beam]:
    """The `settings.samples` best continuations of up to `n_new` tokens, best first."""
    logits = run.read(prompt)
    beams, finished = [Beam([], 0.0)], []
    for length in range(1, n_new + 1):
        ranked = _extensions(logits, beams, 2 * settings.beams)
        ends = [length == n_new or id == eos_id for _, id, _ in ranked]
        for (row, id, log_prob), end in list(zip(ranked, ends, strict=True))[: settings.beams]:
            if end:
                ids = beams[row].ids + ([] if id == eos_id else [id])
                score = log_prob / length**settings.length_penalty
                finished.append(Beam(ids, log_prob, id == eos_id, score))
        finished = sorted(finished, key=lambda beam: -beam.score)[: settings.beams]
        open_ = [extension for extension, end in zip(ranked, ends, strict=True) if not end][: settings.beams]
        if not open_:
            break
        best = open_[0][2] / length**settings.length_penalty
        if len(finished) == settings.beams and best <= finished[-1].score:
            break
        run.split(torch.tensor([row for row, _, _ in open_], device=run.device))
        beams = [Beam([*beams[row].ids, id], log_prob) for row, id, log_prob in open_]
        logits = run.step(torch.tensor([id for _, id, _ in open_], device=run.device))
    return finished[: settings.samples]


def _extensions(logits: Tensor, beams: list[Beam], n: int) -> list[tuple[int, int, float]]:
    """The n likeliest (row, id, log-probability of the whole) of all beams' next tokens.

    Twice as many as beams, so that enough stay open even if the best ones all end.
    """
    so_far = torch.tensor([beam.log_prob for beam in beams], device=logits.device)
    totals = logits.log_softmax(-1) + so_far[:, None]  # (n, V)
    values, places = totals.flatten().topk(min(n, totals.numel()))
    V = totals.shape[1]
    return [
        (place // V, place % V, value) for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
