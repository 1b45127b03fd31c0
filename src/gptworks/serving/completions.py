"""POST /v1/completions: continuations of one prompt or several."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptworks.generation.engine import encode_prompt
from gptworks.generation.requests import Request, TokenDelta, TokenLogprob
from gptworks.serving import models, responses
from gptworks.serving.errors import RESPONSES, ApiError, JsonResponse
from gptworks.serving.models import ServedModel
from gptworks.serving.responses import PartialText, TokenUsage, envelope, token_text
from gptworks.serving.schema import CompletionRequest
from gptworks.serving.settings import ServeSettings
from gptworks.serving.worker import Events
from gptworks.text.tokenizer import StreamDecoder, Tokenizer

router = APIRouter()

MAX_TOKENS = 16
"""OpenAI's default."""


@router.post("/v1/completions", responses=RESPONSES)
async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
    """Continue a prompt, or several."""
    model = models.find(http, body.model, kinds=("base", "instruct", "chat"))
    if body.best_of not in {None, body.n or 1}:
        raise ApiError(400, "best_of: this server returns all n texts; leave it out", param="best_of")
    if body.echo and body.beams:
        raise ApiError(400, "echo cannot be combined with beams", param="echo")
    requests = await run_in_threadpool(_requests, body, model, http.app.state.settings)
    usage = TokenUsage(sum(len(request.ids) for request in requests))
    pending = [
        [_PendingChoice(model.tokenizer, request, echo=bool(body.echo)) for _ in range(body.n or 1)]
        for request in requests
    ]
    fields = envelope("text_completion", "cmpl", model.name)

    def choices(events: Events) -> list[dict[str, Any]]:
        _add(events, pending)
        numbered = enumerate(choice for texts in pending for choice in texts)
        return [{"index": index} | choice.take() for index, choice in numbered if choice.has_news]

    if not body.stream:
        made = choices(await responses.collect(http, model, requests, usage))
        return JsonResponse(fields | {"choices": made, "usage": usage.json})
    include_usage = body.stream_options is not None and body.stream_options.include_usage

    def chunks(events: Events) -> list[dict[str, Any]]:
        no_usage = {"usage": None} if include_usage else {}
        return [fields | {"choices": [choice]} | no_usage for choice in choices(events)]

    def last_chunks() -> list[dict[str, Any]]:
        return [fields | {"choices": [], "usage": usage.json}] if include_usage else []

    return await responses.stream(http, model, requests, usage, chunks, last_chunks)


def _requests(body: CompletionRequest, model: ServedModel, limits: ServeSettings) -> list[Request]:
    prompt = body.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts: list[str | list[int]] = prompt if several else [prompt]  # type: ignore[assignment] - as `several` says
    settings = responses.generate_settings(body, body.logprobs, limits.max_batch)
    assert model.worker is not None
    wanted = body.max_tokens
    if wanted is None:
        wanted = MAX_TOKENS if limits.max_tokens is None else min(MAX_TOKENS, limits.max_tokens)
    requests = []
    for text in prompts:
        if not isinstance(text, str) and max(text) >= model.tokenizer.vocab_size:
            raise ApiError(400, f"prompt: token id {max(text)} is not in the vocabulary", param="prompt")
        ids = encode_prompt(model.worker.model, model.tokenizer, text)
        if body.truncation == "auto":
            ids = ids[-max(1, model.context - wanted) :]
        if not wanted and not body.echo:
            raise ApiError(400, "max_tokens: 0 needs echo: true", param="max_tokens")
        n_new = responses.max_new_tokens(model, len(ids), wanted, limits)
        scored = bool(body.echo) and body.logprobs is not None
        requests.append(Request(ids, n_new, settings, scored))
    return requests


def _add(events: Events, pending: list[list["_PendingChoice"]]) -> None:
    for index, event in events:
        if isinstance(event, TokenDelta):
            pending[index][event.sample].add(event)
        else:
            for choice in pending[index]:
                choice.add_prompt(event)


class _PendingChoice:
    """The part of one choice that has not been sent yet."""

    def __init__(self, tokenizer: Tokenizer, request: Request, *, echo: bool) -> None:
        self.tokenizer, self.request, self.echo = tokenizer, request, echo
        self.has_news = False
        """There is something to send."""
        self._new = PartialText()
        self._prompt: list[TokenLogprob | None] = []
        self._started = False
        decoder = StreamDecoder(tokenizer)
        self._offset = 0 if echo else len("".join(map(decoder.push, request.ids)) + decoder.end())
        self._decoder = StreamDecoder(tokenizer)

    def add(self, delta: TokenDelta) -> None:
        """Append one generated token."""
        self._new.add(delta)
        visible = bool(delta.text or delta.logprob) or delta.finish_reason is not None
        self.has_news = self.has_news or visible or (self.echo and not self._started)

    def add_prompt(self, scored: list[TokenLogprob]) -> None:
        """Add the scores of the prompt's own tokens; the first has none."""
        self._prompt = [None, *scored]

    def take(self) -> dict[str, Any]:
        """Text, logprobs and finish_reason since the last call."""
        new, text = self._new, self._new.text
        tokens: list[tuple[int, TokenLogprob | None]] = [(token.id, token) for token in new.logprobs]
        if self.echo and not self._started:
            text = self.tokenizer.decode(self.request.ids) + text
            tokens = list(zip(self.request.ids, self._prompt, strict=False)) + tokens
        self._started, self.has_news, self._new = True, False, PartialText()
        wanted = self.request.settings.logprobs is not None
        logprobs = self._logprobs(tokens) if wanted else None
        return {"text": text, "logprobs": logprobs, "finish_reason": new.finish_reason}

    def _logprobs(self, tokens: list[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        offsets, top = [], []
        for id, token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.push(id))
            choices = () if token is None else (*token.top, (id, token.logprob))
            named = {token_text(self.tokenizer, choice): logprob for choice, logprob in choices}
            top.append(None if token is None else named)
        return {
            "tokens": [token_text(self.tokenizer, id) for id, _ in tokens],
            "token_logprobs": [None if token is None else token.logprob for _, token in tokens],
            "top_logprobs": top if self.request.settings.logprobs else None,
            "text_offset": offsets,
        }
