"""Continuous batching: samples of many requests grow together, one token per step, and join and leave between steps.

    waiting -> prefilled together, one chunk per step -> rows of one KV cache, one token per step each -> finished

Requests have their own settings, seeds and lengths, and each gets what it would get alone (up to rounding, which does
not matter in float32). Requests are served in the order they arrive. Yu et al. 2022, "Orca: A Distributed Serving
System for Transformer-Based Generative Models", section 4.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptworks.generation.beam import Beam, BeamSearch
from gptworks.generation.decoding import DecodeBatch, Prefill, prefill_tokens, token_logprobs
from gptworks.generation.requests import (
    Event,
    FinishReason,
    GenerateSettings,
    Request,
    TokenDelta,
    TokenLogprob,
)
from gptworks.generation.sampling import SampleText, draft, draw_each, penalize_repetition, uniform_numbers
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer


@dataclass
class _ActiveSample:
    """A sample in progress: one row of the batch."""

    request_id: int
    sample: int
    request: Request
    text: SampleText
    uniform: list[float]
    seen: list[int] = field(default_factory=list)
    """Prompt and text so far; filled only if a repetition penalty or a draft needs it."""
    n_generated: int = 0


class Scheduler:
    """Runs many requests at once: `add` queues one, and each `step` generates a token for every active sample."""

    def __init__(self, model: Model, tokenizer: Tokenizer, max_rows: int) -> None:
        """`max_rows` limits the number of samples generated at once."""
        self.model, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self._ids = itertools.count()
        self._waiting: deque[tuple[int, Request]] = deque()
        self._prefilling: list[tuple[int, Request]] = []
        """The requests in `_prefill`; a cancelled one has the id -1."""
        self._prefill: Prefill | None = None
        self._batch = DecodeBatch(model, max_rows)
        self._rows: list[_ActiveSample] = []
        self._last = torch.empty(0, dtype=torch.long, device=self._batch.device)
        """(n,) newest token of each row, not yet in the cache."""
        self._searches: dict[int, tuple[Request, BeamSearch]] = {}

    def add(self, request: Request) -> int:
        """Queue a request; returns the id that its events carry."""
        assert request.rows <= self.max_rows
        request_id = next(self._ids)
        self._waiting.append((request_id, request))
        return request_id

    def cancel(self, request_id: int) -> None:
        """Drop a request in any state; a finished one may be cancelled too."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != request_id)
        self._searches.pop(request_id, None)
        self._prefilling = [(id if id != request_id else -1, request) for id, request in self._prefilling]
        self._keep([row for row, active in enumerate(self._rows) if active.request_id != request_id])

    @property
    def busy(self) -> bool:
        """Some request is unfinished."""
        return bool(self._waiting or self._prefill or self._rows or self._searches)

    @property
    def waiting(self) -> int:
        """Number of queued requests."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of samples being generated or prefilled."""
        searches = [*self._searches.values()]  # a copy, because another thread may call this
        beams = sum(request.settings.beams for request, _ in searches)
        return len(self._rows) + beams + sum(request.rows for _, request in [*self._prefilling])

    @property
    def tokens(self) -> int:
        """Number of tokens in the KV cache."""
        return sum(self._batch.cache.lengths)

    def step(self) -> list[tuple[int, Event]]:
        """Generate one token for every active sample; returns (request id, event) pairs."""
        events: list[tuple[int, Event]] = []
        if self._speculate(events):
            return events
        logits = [self._batch.step(self._last)] if self._rows else []
        if self._prefill is None:
            self._start_prefill()
        if self._prefill is not None:
            self._prefill.step(
                {
                    row: request.settings.logprobs or 0
                    for row, (_, request) in enumerate(self._prefilling)
                    if request.score_prompt
                }
            )
            if self._prefill.done:
                logits += self._start_decoding(self._prefill, events)
                self._prefill, self._prefilling = None, []
        for request_id, (request, search) in list(self._searches.items()):
            if (beams := search.step()) is not None:
                del self._searches[request_id]
                events += [(request_id, delta) for delta in self._beam_deltas(beams, request)]
        if logits:
            self._draw(torch.cat(logits) if len(logits) > 1 else logits[0], events)
        return events

    def _speculate(self, events: list[tuple[int, Event]]) -> bool:
        """Verify a draft of the next tokens in one step, if a single sample runs alone; returns whether it did."""
        if len(self._rows) != 1 or self._waiting or self._prefill is not None or self._searches:
            return False
        row = self._rows[0]
        limit = min(row.request.settings.prompt_lookup, row.request.n_new - row.n_generated - 1)
        if limit < 1 or not (drafted := draft(row.seen, limit)):
            return False
        cached = len(self._batch.cache)
        logits = self._batch.verify_draft([*self._last.tolist(), *drafted])  # (T, V)
        for index in range(len(logits)):
            self._draw(logits[index : index + 1], events)
            if not self._rows:
                return True
            cached += 1
            if self._last.tolist() != drafted[index : index + 1]:
                break
        self._batch.cache.truncate(cached)
        return True

    def _start_prefill(self) -> None:
        """Start to prefill the next requests: as many as there are free rows and as fit one prefill step."""
        free = self.max_rows - self.running
        budget, longest = prefill_tokens(self._batch.device), 0
        while self._waiting:
            _, request = self._waiting[0]
            longest = max(longest, len(request.ids))
            first = not self._prefilling
            if request.rows > free or (not first and longest * (len(self._prefilling) + 1) > budget):
                break
            if request.settings.beams and not first:
                break  # beam search needs a prefill of its own
            self._prefilling.append(self._waiting.popleft())
            free -= request.rows
            if request.settings.beams:
                break
        if self._prefilling:
            self._prefill = Prefill(self.model, [request.ids for _, request in self._prefilling])

    def _start_decoding(self, prefill: Prefill, events: list[tuple[int, Event]]) -> list[Tensor]:
        """Turn prefilled requests into rows and beam searches; returns the logits of the rows' first tokens."""
        copies = []
        for row, (request_id, request) in enumerate(self._prefilling):
            cancelled, settings = request_id < 0, request.settings
            if request.score_prompt and not cancelled:
                events.append((request_id, prefill.scored[row]))
            if settings.beams and not cancelled:
                stop_ids, vocab_size = self._stop_ids(settings), self.tokenizer.vocab_size
                search = BeamSearch(prefill, request.n_new, vocab_size, stop_ids, settings)
                self._searches[request_id] = (request, search)
            copies.append(0 if cancelled or settings.beams or not request.n_new else settings.samples)
            if not request.n_new and not cancelled:
                events += [(request_id, TokenDelta(n, "", None, "length")) for n in range(settings.samples)]
            self._rows += [self._row(request_id, sample, request) for sample in range(copies[-1])]
        if not sum(copies):
            return []
        row_tokens = max(len(row.request.ids) + row.request.n_new for row in self._rows)
        return [self._batch.join(prefill, copies, row_tokens)]

    def _row(self, request_id: int, sample: int, request: Request) -> _ActiveSample:
        settings = request.settings
        text = SampleText(self.tokenizer, settings.stop)
        uniform = uniform_numbers(settings, sample, request.n_new if settings.temperature else 0).tolist()
        seen = list(request.ids) if settings.repetition_penalty != 1 or settings.prompt_lookup else []
        return _ActiveSample(request_id, sample, request, text, uniform, seen)

    @torch.inference_mode()
    def _draw(self, raw: Tensor, events: list[tuple[int, Event]]) -> None:
        """Draw the next token of each row from (n, V) logits, and drop the rows that end."""
        rows = self._rows
        settings = [row.request.settings for row in rows]
        logits = raw[:, : self.tokenizer.vocab_size]
        if any(own.repetition_penalty != 1 for own in settings):
            penalties = [own.repetition_penalty for own in settings]
            logits = penalize_repetition(logits, penalties, [row.seen for row in rows])
        uniform = [row.uniform[row.n_generated] if row.uniform else 0.0 for row in rows]
        self._last = draw_each(logits, settings, uniform)
        ids = self._last.tolist()
        logprobs = self._logprobs(raw, ids)
        unfinished = []
        for index, (row, id) in enumerate(zip(rows, ids, strict=True)):
            delta = self._delta(row, id, logprobs.get(index))
            if delta.finish_reason is None:
                unfinished.append(index)
            events.append((row.request_id, delta))
        self._keep(unfinished)

    def _logprobs(self, raw: Tensor, ids: list[int]) -> dict[int, TokenLogprob]:
        """Log-probabilities by row, for the rows that ask for them; rows with the same `n_top` share a call."""
        wanted = {index: row.request.settings.logprobs for index, row in enumerate(self._rows)}
        logprobs: dict[int, TokenLogprob] = {}
        for n_top in {n for n in wanted.values() if n is not None}:
            rows = [row for row, n in wanted.items() if n == n_top]
            own = raw[torch.tensor(rows, device=raw.device)]
            logprobs |= zip(rows, token_logprobs(own, [ids[row] for row in rows], n_top), strict=True)
        return logprobs

    def _delta(self, row: _ActiveSample, id: int, logprob: TokenLogprob | None) -> TokenDelta:
        row.n_generated += 1
        ends, last = id in self._stop_ids(row.request.settings), row.n_generated == row.request.n_new
        if row.seen:
            row.seen.append(id)
        text = "" if ends else row.text.push(id)
        if ends or last:
            text += row.text.end()
        reason: FinishReason | None = None
        if row.text.stopped:
            reason = "stop"
        elif ends:
            reason = "eos" if id == self.tokenizer.eos_id else "stop"
        elif last:
            reason = "length"
        return TokenDelta(row.sample, text, None if ends else id, reason, None if ends else logprob)

    def _stop_ids(self, settings: GenerateSettings) -> set[int]:
        own = set(settings.stop_tokens)
        return own if self.tokenizer.eos_id is None else own | {self.tokenizer.eos_id}

    def _keep(self, kept: Sequence[int]) -> None:
        """Drop all other rows."""
        if len(kept) == len(self._rows):
            return
        order = self._batch.keep(list(kept))
        self._rows = [self._rows[row] for row in order]
        self._last = self._last[torch.tensor(order, dtype=torch.long, device=self._last.device)]

    def _beam_deltas(self, beams: list[Beam], request: Request) -> list[TokenDelta]:
        """The deltas of a finished beam search."""
        deltas = []
        for sample, beam in enumerate(beams):
            text = SampleText(self.tokenizer, request.settings.stop)
            deltas += [TokenDelta(sample, text.push(id), id, None) for id in beam.ids]
            rest = text.end()
            reason: FinishReason = "stop" if text.stopped else "eos" if beam.ended else "length"
            deltas.append(TokenDelta(sample, rest, None, reason))
        return deltas
