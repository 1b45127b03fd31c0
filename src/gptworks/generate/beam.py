"""Beam search: the likeliest continuations, looked for along several at a time.

Exactly transformers' search with its default `early_stopping=False`: it ends when the best open beam, scored
at its present length, is no better than the worst of `beams` finished ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptworks.generate.continuation import Reading, Rows
from gptworks.generate.sampling import penalized
from gptworks.generate.settings import GenerateSettings


@dataclass(frozen=True)
class Beam:
    """A continuation."""

    ids: list[int]
    """Without the token that ended it."""
    log_prob: float
    ended: bool = False
    """It came to the end of text, or a stop token."""
    score: float = 0.0
    """Of a finished one: log_prob / length ** length_penalty, the end of text being part of the length."""


class Search:
    """A search under way: a step a token, so that others may take their turns between."""

    def __init__(
        self, prompt: Reading, n_new: int, vocab_size: int, ends: set[int], settings: GenerateSettings
    ) -> None:
        """The `settings.samples` best continuations of up to `n_new` tokens of the one prompt read."""
        self.vocab_size, self.ends, self.settings = vocab_size, ends, settings
        self._prompt, self._n_new = prompt, n_new
        self._finished: list[Beam] = []
        self._steps = self._search()

    def step(self) -> list[Beam] | None:
        """A token further; what was found, best first, once that is known."""
        try:
            return next(self._steps)
        except StopIteration:
            return self._finished[: self.settings.samples]

    def _search(self) -> Iterator[None]:
        settings, n_new = self.settings, self._n_new
        run = Rows(self._prompt.model, settings.beams)
        logits = run.join(self._prompt, [1], self._prompt.lengths[0] + n_new)
        prompt = self._prompt.prompts[0]
        del self._prompt
        beams, finished = [Beam([], 0.0)], self._finished
        for length in range(1, n_new + 1):
            seen = [prompt + beam.ids for beam in beams] if settings.repetition_penalty != 1 else []
            ranked = self._extensions(logits[:, : self.vocab_size], beams, seen)
            ends = [length == n_new or id in self.ends for _, id, _ in ranked]
            for (row, id, log_prob), end in list(zip(ranked, ends, strict=True))[: settings.beams]:
                if end:
                    ids = beams[row].ids + ([] if id in self.ends else [id])
                    score = log_prob / length**settings.length_penalty
                    finished.append(Beam(ids, log_prob, id in self.ends, score))
            finished.sort(key=lambda beam: -beam.score)
            del finished[settings.beams :]
            open_ = [one for one, end in zip(ranked, ends, strict=True) if not end][: settings.beams]
            if not open_:
                return
            best = open_[0][2] / length**settings.length_penalty
            if len(finished) == settings.beams and best <= finished[-1].score:
                return
            run.take([row for row, _, _ in open_])
            beams = [Beam([*beams[row].ids, id], log_prob) for row, id, log_prob in open_]
            logits = run.step(torch.tensor([id for _, id, _ in open_], device=run.device))
            yield

    def _extensions(
        self, logits: Tensor, beams: list[Beam], seen: list[list[int]]
    ) -> list[tuple[int, int, float]]:
        """The likeliest (row, id, log-probability of the whole) of all beams' next tokens.

        Twice as many as beams, so that enough stay open even if the best ones all end.
        """
        so_far = torch.tensor([beam.log_prob for beam in beams], device=logits.device)
        logprobs = logits.log_softmax(-1)
        if seen:
            logprobs = penalized(logprobs, [self.settings.repetition_penalty] * len(seen), seen)
        totals = logprobs + so_far[:, None]  # (n, V)
        values, places = totals.flatten().topk(min(2 * self.settings.beams, totals.numel()))
        V = totals.shape[1]
        return [
            (place // V, place % V, value)
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
        ]
