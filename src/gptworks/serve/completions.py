"""POST /v1/completions: a text goes on."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptworks.generate.engine import prompt_ids
from gptworks.generate.logprobs import TokenLogprob
from gptworks.generate.requests import Piece, Request
from gptworks.serve import models
from gptworks.serve.answering import (
    News,
    Tally,
    Told,
    answer,
    envelope,
    room_for,
    settings_of,
    spelled,
    streamed,
    whole,
)
from gptworks.serve.errors import RESPONSES, ApiError
from gptworks.serve.models import Served
from gptworks.serve.schema import CompletionRequest
from gptworks.serve.settings import ServeSettings
from gptworks.text.tokenizer import StreamDecoder, Tokenizer

router = APIRouter()

MAX_TOKENS = 16
"""Where nobody says, as OpenAI has it."""


@router.post("/v1/completions", responses=RESPONSES)
async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
    """Continue a prompt, or several."""
    served = models.find(http, body.model, kinds=("base", "instruct", "chat"))
    if body.best_of not in {None, body.n or 1}:
        raise ApiError(400, "best_of: all of the n texts are returned here", param="best_of")
    if body.echo and body.beams:
        raise ApiError(400, "echo and beams exclude each other", param="echo")
    requests = await run_in_threadpool(_requests, body, served, http.app.state.settings)
    tally = Tally(sum(len(request.ids) for request in requests))
    writers = [
        [_Writer(served.tokenizer, request, echo=bool(body.echo)) for _ in range(body.n or 1)]
        for request in requests
    ]
    made = envelope("text_completion", "cmpl", served.name)

    def choices(news: News) -> list[dict[str, Any]]:
        _hear(news, writers)
        every = enumerate(writer for texts in writers for writer in texts)
        return [{"index": index} | writer.told() for index, writer in every if writer.fresh]

    if not body.stream:
        return answer(
            made | {"choices": choices(await whole(http, served, requests, tally)), "usage": tally.usage}
        )
    usage = body.stream_options is not None and body.stream_options.include_usage

    def chunks(news: News) -> list[dict[str, Any]]:
        empty = {"usage": None} if usage else {}
        return [made | {"choices": [choice]} | empty for choice in choices(news)]

    def last() -> list[dict[str, Any]]:
        return [made | {"choices": [], "usage": tally.usage}] if usage else []

    return await streamed(http, served, requests, tally, chunks, last)


def _requests(body: CompletionRequest, served: Served, limits: ServeSettings) -> list[Request]:
    prompt = body.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts: list[str | list[int]] = prompt if several else [prompt]  # type: ignore[assignment] - as `several` says
    settings = settings_of(body, body.logprobs, limits.batch)
    assert served.worker is not None
    wanted = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if body.max_tokens is None and limits.max_tokens is not None:
        wanted = min(wanted, limits.max_tokens)
    found = []
    for one in prompts:
        if not isinstance(one, str) and max(one) >= served.tokenizer.vocab_size:
            raise ApiError(400, f"prompt: there is no token {max(one)}", param="prompt")
        ids = prompt_ids(served.worker.model, served.tokenizer, one)
        if body.truncation == "auto":
            ids = ids[-max(1, served.context - wanted) :]
        if not wanted and not body.echo:
            raise ApiError(400, "max_tokens: 0 goes with echo only", param="max_tokens")
        n_new = room_for(served, len(ids), wanted, limits)
        scored = bool(body.echo) and body.logprobs is not None
        found.append(Request(ids, n_new, settings, scored))
    return found


def _hear(news: News, writers: list[list["_Writer"]]) -> None:
    for number, event in news:
        if isinstance(event, Piece):
            writers[number][event.sample].hear(event)
        else:
            for writer in writers[number]:
                writer.hear_prompt(event)


class _Writer:
    """One choice: what of it has not been told yet."""

    def __init__(self, tokenizer: Tokenizer, request: Request, *, echo: bool) -> None:
        self.tokenizer, self.request, self.echo = tokenizer, request, echo
        self.fresh = False
        """There is something to tell."""
        self._new = Told()
        self._prompt: list[TokenLogprob | None] = []
        self._begun = False
        decoder = StreamDecoder(tokenizer)
        self._offset = 0 if echo else len("".join(map(decoder.push, request.ids)) + decoder.end())
        self._decoder = StreamDecoder(tokenizer)

    def hear(self, piece: Piece) -> None:
        """A token more."""
        self._new.add(piece)
        said = bool(piece.text or piece.logprob)
        self.fresh = self.fresh or said or piece.finish_reason is not None or (self.echo and not self._begun)

    def hear_prompt(self, scored: list[TokenLogprob]) -> None:
        """The prompt's own tokens; nothing is known of the first."""
        self._prompt = [None, *scored]

    def told(self) -> dict[str, Any]:
        """Text, logprobs and finish_reason since the last time."""
        new, text = self._new, self._new.text
        tokens: list[tuple[int, TokenLogprob | None]] = [(one.id, one) for one in new.logprobs]
        if self.echo and not self._begun:
            text = self.tokenizer.decode(self.request.ids) + text
            tokens = list(zip(self.request.ids, self._prompt, strict=False)) + tokens
        self._begun, self.fresh, self._new = True, False, Told()
        asked = self.request.settings.logprobs is not None
        return {
            "text": text,
            "logprobs": self._logprobs(tokens) if asked else None,
            "finish_reason": new.reason,
        }

    def _logprobs(self, tokens: list[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        top: list[dict[str, float] | None] = []
        offsets = []
        for id, said in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.push(id))
            likely = (
                {}
                if said is None
                else {spelled(self.tokenizer, id): p for id, p in (*said.top, (id, said.logprob))}
            )
            top.append(None if said is None else likely)
        return {
            "tokens": [spelled(self.tokenizer, id) for id, _ in tokens],
            "token_logprobs": [None if said is None else said.logprob for _, said in tokens],
            "top_logprobs": top if self.request.settings.logprobs else None,
            "text_offset": offsets,
        }
