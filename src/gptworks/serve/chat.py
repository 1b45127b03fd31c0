"""POST /v1/chat/completions: an answer in a conversation, by the checkpoint's own template."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

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
from gptworks.serve.schema import ChatMessage, ChatRequest
from gptworks.serve.settings import ServeSettings
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions", responses=RESPONSES)
async def chat(body: ChatRequest, http: HttpRequest) -> Response:
    """Answer the last message."""
    served = models.find(http, body.model, kinds=("instruct", "chat"))
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
    request = await run_in_threadpool(_request, body, served, http.app.state.settings)
    tally = Tally(len(request.ids))
    texts = [Told() for _ in range(body.n or 1)]
    if not body.stream:
        for _, event in await whole(http, served, [request], tally):
            assert isinstance(event, Piece)
            texts[event.sample].add(event)
        made = envelope("chat.completion", "chatcmpl", served.name)
        choices = [_choice(served.tokenizer, index, told, body) for index, told in enumerate(texts)]
        return answer(made | {"choices": choices, "usage": tally.usage})
    return await _stream(body, http, served, request, tally)


async def _stream(
    body: ChatRequest, http: HttpRequest, served: Served, request: Request, tally: Tally
) -> Response:
    made = envelope("chat.completion.chunk", "chatcmpl", served.name)
    usage = body.stream_options is not None and body.stream_options.include_usage
    empty = {"usage": None} if usage else {}
    begun: set[int] = set()

    def chunks(news: News) -> list[dict[str, Any]]:
        found = []
        for _, event in news:
            assert isinstance(event, Piece)
            told = Told()
            told.add(event)
            delta: dict[str, Any] = {"content": told.text} if told.text or told.logprobs else {}
            if event.sample not in begun:
                begun.add(event.sample)
                delta = {"role": "assistant", "content": told.text}
            if delta or told.reason:
                choice = {"index": event.sample, "delta": delta, "finish_reason": told.reason}
                choice["logprobs"] = _logprobs(served.tokenizer, told.logprobs) if body.logprobs else None
                found.append(made | {"choices": [choice]} | empty)
        return found

    def last() -> list[dict[str, Any]]:
        return [made | {"choices": [], "usage": tally.usage}] if usage else []

    return await streamed(http, served, [request], tally, chunks, last)


def _request(body: ChatRequest, served: Served, limits: ServeSettings) -> Request:
    n_top = (body.top_logprobs or 0) if body.logprobs else None
    settings = settings_of(body, n_top, limits.batch)
    wanted = body.max_completion_tokens or body.max_tokens
    talk, said = Chat(served.tokenizer), [_message(message) for message in body.messages]
    if body.truncation == "auto":
        said = talk.recent(said, served.context - min(wanted or served.context, served.context // 4))
    ids = talk.prompt(said)
    return Request(ids, room_for(served, len(ids), wanted, limits), settings)


def _message(message: ChatMessage) -> Message:
    content = message.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    return Message(role, content, message.input)


def _choice(tokenizer: Tokenizer, index: int, told: Told, body: ChatRequest) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": told.text, "refusal": None},
        "logprobs": _logprobs(tokenizer, told.logprobs) if body.logprobs else None,
        "finish_reason": told.reason,
    }


def _logprobs(tokenizer: Tokenizer, said: list[TokenLogprob]) -> dict[str, Any]:
    def one(id: int, logprob: float) -> dict[str, Any]:
        known = id < tokenizer.vocab_size
        raw = list(tokenizer.decode_bytes([id])) if known else None
        return {"token": spelled(tokenizer, id), "logprob": logprob, "bytes": raw}

    return {
        "content": [
            one(token.id, token.logprob) | {"top_logprobs": [one(*likely) for likely in token.top]}
            for token in said
        ],
        "refusal": None,
    }
