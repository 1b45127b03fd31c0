"""POST /v1/chat/completions: the next message of a conversation, in the checkpoint's own chat template."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptworks.generation.requests import Request, TokenDelta, TokenLogprob
from gptworks.serving import models, responses
from gptworks.serving.errors import RESPONSES, ApiError, JsonResponse
from gptworks.serving.models import ServedModel
from gptworks.serving.responses import PartialText, TokenUsage, envelope, token_text
from gptworks.serving.schema import ChatMessage, ChatRequest
from gptworks.serving.settings import ServeSettings
from gptworks.serving.worker import Events
from gptworks.text.templates import Chat, Message
from gptworks.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions", responses=RESPONSES)
async def chat(body: ChatRequest, http: HttpRequest) -> Response:
    """Answer the last message."""
    model = models.find(http, body.model, kinds=("instruct", "chat"))
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    request = await run_in_threadpool(_request, body, model, http.app.state.settings)
    usage = TokenUsage(len(request.ids))
    if body.stream:
        return await _stream(body, http, model, request, usage)
    texts = [PartialText() for _ in range(body.n or 1)]
    for _, event in await responses.collect(http, model, [request], usage):
        assert isinstance(event, TokenDelta)
        texts[event.sample].add(event)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text.text, "refusal": None},
            "logprobs": _logprobs(model.tokenizer, text.logprobs) if body.logprobs else None,
            "finish_reason": text.finish_reason,
        }
        for index, text in enumerate(texts)
    ]
    fields = envelope("chat.completion", "chatcmpl", model.name)
    return JsonResponse(fields | {"choices": choices, "usage": usage.json})


async def _stream(
    body: ChatRequest, http: HttpRequest, model: ServedModel, request: Request, usage: TokenUsage
) -> Response:
    fields = envelope("chat.completion.chunk", "chatcmpl", model.name)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    no_usage = {"usage": None} if include_usage else {}
    started: set[int] = set()

    def chunks(events: Events) -> list[dict[str, Any]]:
        result = []
        for _, event in events:
            assert isinstance(event, TokenDelta)
            new = PartialText()
            new.add(event)
            delta: dict[str, Any] = {"content": new.text} if new.text or new.logprobs else {}
            if event.sample not in started:
                started.add(event.sample)
                delta = {"role": "assistant", "content": new.text}
            if delta or new.finish_reason:
                choice = {"index": event.sample, "delta": delta, "finish_reason": new.finish_reason}
                choice["logprobs"] = _logprobs(model.tokenizer, new.logprobs) if body.logprobs else None
                result.append(fields | {"choices": [choice]} | no_usage)
        return result

    def last_chunks() -> list[dict[str, Any]]:
        return [fields | {"choices": [], "usage": usage.json}] if include_usage else []

    return await responses.stream(http, model, [request], usage, chunks, last_chunks)


def _request(body: ChatRequest, model: ServedModel, limits: ServeSettings) -> Request:
    n_top = (body.top_logprobs or 0) if body.logprobs else None
    settings = responses.generate_settings(body, n_top, limits.max_batch)
    wanted = body.max_completion_tokens or body.max_tokens
    template, messages = Chat(model.tokenizer), [_message(message) for message in body.messages]
    if body.truncation == "auto":
        messages = template.drop_oldest(
            messages, model.context - min(wanted or model.context, model.context // 4)
        )
    ids = template.prompt(messages)
    return Request(ids, responses.max_new_tokens(model, len(ids), wanted, limits), settings)


def _message(message: ChatMessage) -> Message:
    content = message.content
    if not isinstance(content, str):
        content = "".join(part.text for part in content)
    role = "system" if message.role == "developer" else message.role
    return Message(role, content, message.input)


def _logprobs(tokenizer: Tokenizer, tokens: list[TokenLogprob]) -> dict[str, Any]:
    def entry(id: int, logprob: float) -> dict[str, Any]:
        raw = list(tokenizer.decode_bytes([id])) if id < tokenizer.vocab_size else None
        return {"token": token_text(tokenizer, id), "logprob": logprob, "bytes": raw}

    content = [
        entry(token.id, token.logprob) | {"top_logprobs": [entry(*choice) for choice in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
