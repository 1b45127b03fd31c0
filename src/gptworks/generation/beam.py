"""Beam search.

Exactly the search of transformers with its default `early_stopping=False`: it ends when the best open beam, scored at
its current length, is no better than the worst of `beams` finished ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptworks.generation.decoding import DecodeBatch, Prefill
from gptworks.generation.requests import GenerateSettings
from gptworks.generation.sampling import penalize_repetition


@dataclass(frozen=True)
class Beam:
    """A candidate continuation."""

    ids: list[int]
    """Without the token that ended it."""
    log_prob: float
    ended: bool = False
    """It ended with the end-of-text token or a stop token."""
    score: float = 0.0
    """If finished: log_prob / length ** length_penalty; the length includes the end token."""


class BeamSearch:
    """The `settings.samples` best continuations of one prompt, up to `n_new` tokens long.

    Each step adds one token, so the scheduler can run other requests in between.
    """

    def __init__(
        self, prompt: Prefill, n_new: int, vocab_size: int, stop_ids: set[int], settings: GenerateSettings
    ) -> None:
        self.vocab_size, self.stop_ids, self.settings = vocab_size, stop_ids, settings
        self._prompt, self._n_new = prompt, n_new
        self._finished: list[Beam] = []
        self._steps = self._search()

    def step(self) -> list[Beam] | None:
        """Extend the beams by one token; returns the best ones, best first, once the search has ended."""
        try:
            return next(self._steps)
        except StopIteration:
            return self._finished[: self.settings.samples]

    def _search(self) -> Iterator[None]:
        settings, n_new = self.settings, self._n_new
        batch = DecodeBatch(self._prompt.model, settings.beams)
        logits = batch.join(self._prompt, [1], self._prompt.lengths[0] + n_new)
        prompt = self._prompt.prompts[0]
        del self._prompt  # free its cache
        beams, finished = [Beam([], 0.0)], self._finished
        for length in range(1, n_new + 1):
            seen = [prompt + beam.ids for beam in beams] if settings.repetition_penalty != 1 else []
            ranked = self._extensions(logits[:, : self.vocab_size], beams, seen)
            ends = [length == n_new or id in self.stop_ids for _, id, _ in ranked]
            for (row, id, log_prob), end in list(zip(ranked, ends, strict=True))[: settings.beams]:
                if end:
                    ids = beams[row].ids + ([] if id in self.stop_ids else [id])
                    score = log_prob / length**settings.length_penalty
                    finished.append(Beam(ids, log_prob, id in self.stop_ids, score))
            finished.sort(key=lambda beam: -beam.score)
            del finished[settings.beams :]
            kept = [extension for extension, end in zip(ranked, ends, strict=True) if not end]
            kept = kept[: settings.beams]
            if not kept:
                return
            best = kept[0][2] / length**settings.length_penalty
            if len(finished) == settings.beams and best <= finished[-1].score:
                return
            batch.reorder([row for row, _, _ in kept])
            beams = [Beam([*beams[row].ids, id], log_prob) for row, id, log_prob in kept]
            logits = batch.step(torch.tensor([id for _, id, _ in kept], device=batch.device))
            yield

    def _extensions(
        self, logits: Tensor, beams: list[Beam], seen: list[list[int]]
    ) -> list[tuple[int, int, float]]:
        """(n, V) logits of n beams -> the best (row, next id, log-probability of the whole text).

        There are twice as many as beams, so enough stay open even if the best ones all end.
        """
        so_far = torch.tensor([beam.log_prob for beam in beams], device=logits.device)
        logprobs = logits.log_softmax(-1)
        if seen:
            logprobs = penalize_repetition(logprobs, [self.settings.repetition_penalty] * len(seen), seen)
        totals = logprobs + so_far[:, None]  # (n, V)
        values, indices = totals.flatten().topk(min(2 * self.settings.beams, totals.numel()))
        V = totals.shape[1]
        return [
            (index // V, index % V, value)
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]
