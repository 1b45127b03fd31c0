"""Continuous batching: texts for several requests grow together, a token a step, and join and leave between steps.

    waiting -> prompts read together, a piece a step -> rows of one cache, a token a step each -> gone

Requests have settings, seeds and lengths of their own, and each gets what it would get alone (to rounding, which in
float32 does not show). Whoever came first is read first; nobody overtakes. Yu et al. 2022, "Orca: A Distributed
Serving System for Transformer-Based Generative Models", section 4.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptworks.generate import logprobs
from gptworks.generate.beam import Beam, Search
from gptworks.generate.continuation import Reading, Rows, read_tokens
from gptworks.generate.logprobs import TokenLogprob
from gptworks.generate.lookup import guess
from gptworks.generate.requests import Event, FinishReason, Piece, Request
from gptworks.generate.sampling import draw_each, noise, penalized
from gptworks.generate.settings import GenerateSettings
from gptworks.generate.stopping import SampleText
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer


@dataclass
class _Row:
    """A sample in the making."""

    ticket: int
    sample: int
    request: Request
    text: SampleText
    uniform: list[float]
    seen: list[int] = field(default_factory=list)
    """Prompt and text so far, kept where a penalty or a guess needs them."""
    made: int = 0


class Scheduler:
    """Requests come in by `add`; each `step` is a token for every text under way."""

    def __init__(self, model: Model, tokenizer: Tokenizer, max_rows: int) -> None:
        """At most `max_rows` texts are written at once."""
        self.model, self.tokenizer, self.max_rows = model, tokenizer, max_rows
        self._tickets = itertools.count()
        self._waiting: deque[tuple[int, Request]] = deque()
        self._asked: list[tuple[int, Request]] = []
        """Whose prompts are being read by `_reading`."""
        self._reading: Reading | None = None
        self._network = Rows(model, max_rows)
        self._rows: list[_Row] = []
        self._last = torch.empty(0, dtype=torch.long, device=self._network.device)
        """(n,) each row's newest token, which the network has not seen yet."""
        self._searches: dict[int, tuple[Request, Search]] = {}

    def add(self, request: Request) -> int:
        """Put a request at the end of the line. -> what its events are called by."""
        assert request.rows <= self.max_rows
        ticket = next(self._tickets)
        self._waiting.append((ticket, request))
        return ticket

    def cancel(self, ticket: int) -> None:
        """Forget a request, wherever it is; one that has ended may be cancelled, too."""
        self._waiting = deque(one for one in self._waiting if one[0] != ticket)
        self._searches.pop(ticket, None)
        self._asked = [(t if t != ticket else -1, request) for t, request in self._asked]
        self._keep([row for row, own in enumerate(self._rows) if own.ticket != ticket])

    @property
    def busy(self) -> bool:
        """There is something to do."""
        return bool(self._waiting or self._reading or self._rows or self._searches)

    @property
    def waiting(self) -> int:
        """Requests nobody has begun with."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Texts being written or about to be."""
        searches = [*self._searches.values()]  # a copy, for another thread may ask
        beams = sum(request.settings.beams for request, _ in searches)
        return len(self._rows) + beams + sum(request.rows for _, request in [*self._asked])

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values are held."""
        return sum(self._network.cache.lengths)

    def step(self) -> list[tuple[int, Event]]:
        """A token further with everything. -> events, each with its ticket."""
        events: list[tuple[int, Event]] = []
        if self._leap(events):
            return events
        logits = [self._network.step(self._last)] if self._rows else []
        if self._reading is None:
            self._begin()
        if self._reading is not None:
            self._reading.go_on(
                {
                    row: request.settings.logprobs or 0
                    for row, (_, request) in enumerate(self._asked)
                    if request.score_prompt
                }
            )
            if self._reading.done:
                logits += self._arrive(self._reading, events)
                self._reading, self._asked = None, []
        for ticket, (request, search) in list(self._searches.items()):
            if (found := search.step()) is not None:
                del self._searches[ticket]
                events += [(ticket, piece) for piece in self._tell(found, request)]
        if logits:
            self._draw(torch.cat(logits) if len(logits) > 1 else logits[0], events)
        return events

    def _leap(self, events: list[tuple[int, Event]]) -> bool:
        """A text that is alone reads guesses along with its newest token, and goes on after those that were right."""
        if len(self._rows) != 1 or self._waiting or self._reading is not None or self._searches:
            return False
        row = self._rows[0]
        most = min(row.request.settings.lookup, row.request.n_new - row.made - 1)
        if most < 1 or not (guesses := guess(row.seen, most)):
            return False
        held = len(self._network.cache)
        logits = self._network.leap([*self._last.tolist(), *guesses])  # (T, V)
        for place in range(len(logits)):
            self._draw(logits[place : place + 1], events)
            if not self._rows:
                return True
            held += 1
            if self._last.tolist() != guesses[place : place + 1]:
                break
        self._network.cache.truncate(held)
        return True

    def _begin(self) -> None:
        """Start to read prompts of those who are next, as many as there is room for and as are read in one piece."""
        free = self.max_rows - self.running
        budget, longest = read_tokens(self._network.device), 0
        while self._waiting:
            _, request = self._waiting[0]
            longest = max(longest, len(request.ids))
            alone = not self._asked
            if request.rows > free or (not alone and longest * (len(self._asked) + 1) > budget):
                break
            if request.settings.beams and not alone:
                break  # a search has its prompt to itself
            self._asked.append(self._waiting.popleft())
            free -= request.rows
            if request.settings.beams:
                break
        if self._asked:
            self._reading = Reading(self.model, [request.ids for _, request in self._asked])

    def _arrive(self, reading: Reading, events: list[tuple[int, Event]]) -> list[Tensor]:
        """Prompts are read: their texts begin. -> logits of the first tokens."""
        copies = []
        for row, (ticket, request) in enumerate(self._asked):
            gone, settings = ticket < 0, request.settings
            if request.score_prompt and not gone:
                events.append((ticket, reading.scored[row]))
            if settings.beams and not gone:
                self._searches[ticket] = (
                    request,
                    Search(reading, request.n_new, self.tokenizer.vocab_size, self._ends(settings), settings),
                )
            copies.append(0 if gone or settings.beams or not request.n_new else settings.samples)
            if not request.n_new and not gone:
                events += [(ticket, Piece(n, "", None, "length")) for n in range(settings.samples)]
            self._rows += [self._row(ticket, sample, request) for sample in range(copies[-1])]
        if not sum(copies):
            return []
        rows = self._rows
        room = max(len(row.request.ids) + row.request.n_new for row in rows)
        return [self._network.join(reading, copies, room)]

    def _row(self, ticket: int, sample: int, request: Request) -> _Row:
        settings = request.settings
        text = SampleText(self.tokenizer, settings.stop)
        uniform = noise(settings, sample, request.n_new if settings.temperature else 0).tolist()
        seen = list(request.ids) if settings.repetition_penalty != 1 or settings.lookup else []
        return _Row(ticket, sample, request, text, uniform, seen)

    @torch.inference_mode()
    def _draw(self, raw: Tensor, events: list[tuple[int, Event]]) -> None:
        """Each row's next token from (n, V) logits; who ends, leaves."""
        rows = self._rows
        settings = [row.request.settings for row in rows]
        logits = raw[:, : self.tokenizer.vocab_size]
        if any(own.repetition_penalty != 1 for own in settings):
            logits = penalized(
                logits, [own.repetition_penalty for own in settings], [row.seen for row in rows]
            )
        uniform = [row.uniform[row.made] if row.uniform else 0.0 for row in rows]
        self._last = draw_each(logits, settings, uniform)
        ids = self._last.tolist()
        said = self._logprobs(raw, ids)
        going = []
        for number, (row, id) in enumerate(zip(rows, ids, strict=True)):
            piece = self._piece(row, id, said.get(number))
            if piece.finish_reason is None:
                going.append(number)
            events.append((row.ticket, piece))
        self._keep(going)

    def _logprobs(self, raw: Tensor, ids: list[int]) -> dict[int, TokenLogprob]:
        wanted = {n: own.request.settings.logprobs for n, own in enumerate(self._rows)}
        found: dict[int, TokenLogprob] = {}
        for n_top in {n for n in wanted.values() if n is not None}:
            rows = [row for row, n in wanted.items() if n == n_top]
            some = raw[torch.tensor(rows, device=raw.device)]
            found |= zip(rows, logprobs.of_logits(some, [ids[row] for row in rows], n_top), strict=True)
        return found

    def _piece(self, row: _Row, id: int, logprob: TokenLogprob | None) -> Piece:
        row.made += 1
        settings = row.request.settings
        ends, last = id in self._ends(settings), row.made == row.request.n_new
        if row.seen:
            row.seen.append(id)
        said = "" if ends else row.text.push(id)
        if ends or last:
            said += row.text.end()
        reason: FinishReason | None = None
        if row.text.stopped:
            reason = "stop"
        elif ends:
            reason = "eos" if id == self.tokenizer.eos_id else "stop"
        elif last:
            reason = "length"
        return Piece(row.sample, said, None if ends else id, reason, None if ends else logprob)

    def _ends(self, settings: GenerateSettings) -> set[int]:
        own = set(settings.stop_tokens)
        return own if self.tokenizer.eos_id is None else own | {self.tokenizer.eos_id}

    def _keep(self, going: Sequence[int]) -> None:
        """Rows but these leave."""
        if len(going) == len(self._rows):
            return
        arrived = self._network.keep(list(going))
        self._rows = [self._rows[row] for row in arrived]
        self._last = self._last[torch.tensor(arrived, dtype=torch.long, device=self._last.device)]

    def _tell(self, found: list[Beam], request: Request) -> list[Piece]:
        """A search's texts, token by token."""
        pieces = []
        for sample, beam in enumerate(found):
            text = SampleText(self.tokenizer, request.settings.stop)
            pieces += [Piece(sample, text.push(id), id, None) for id in beam.ids]
            rest = text.end()
            reason: FinishReason = "stop" if text.stopped else "eos" if beam.ended else "length"
            pieces.append(Piece(sample, rest, None, reason))
        return pieces
