"""The generation engine: a prompt in, samples or a stream of token deltas out.

    prompt -> ids -> prefill -> one token per step, all samples together -> complete characters -> until a stop

scheduler.py does the work: for one prompt (`generate`, `stream`), for many (`generate_many`), and for HTTP requests
(serving/). A prompt and its continuation never exceed the model's context. A longer prompt is refused, or truncated on
the left if the settings say so; a sample that reaches the end of the context finishes with "length".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gptworks.errors import ConfigError
from gptworks.generation.decoding import evaluating
from gptworks.generation.loading import check_match
from gptworks.generation.requests import FinishReason, GenerateSettings, Request, TokenDelta, TokenLogprob
from gptworks.generation.scheduler import Scheduler
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer

__all__ = ["FinishReason", "GenerateSettings", "Sample", "TokenDelta", "generate", "generate_many", "stream"]

MAX_TOKENS = 64
"""Default limit of new tokens per sample."""

MAX_BATCH = 32
"""How many prompts `generate_many` continues at the same time."""


@dataclass(frozen=True)
class Sample:
    """A continuation of a prompt."""

    prompt: str
    text: str
    """The new text, without the stop string or end-of-text token."""
    ids: list[int]
    """The new tokens, without the end-of-text token. With a stop string they may decode to more than `text`."""
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    """Log-probability of each of the ids, if the settings ask for it."""


def generate(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> list[Sample]:
    """Continue a prompt, `settings.samples` times. An empty prompt starts at the beginning of a document.

    The prompt may also be a list of ids, such as a chat template returns.

    Raises:
        ConfigError: the settings contradict each other, or the prompt fills the model's context.
        CheckpointError: the tokenizer does not belong to the model.
    """
    settings.check()
    deltas = _stream(model, tokenizer, encode_prompt(model, tokenizer, prompt), settings)
    return collect(prompt if isinstance(prompt, str) else tokenizer.decode(prompt), settings, deltas)


def stream(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> Iterator[TokenDelta]:
    """Like `generate`, but yields each token as it is drawn; several samples are interleaved.

    Raises:
        ConfigError, CheckpointError: as `generate`; also for beam search, which has no text before the end.
    """
    settings.check()
    if settings.beams:
        raise ConfigError(
            "--beams cannot stream: the best beam is known only at the end; leave out one of the two"
        )
    return _stream(model, tokenizer, encode_prompt(model, tokenizer, prompt), settings)


def _stream(
    model: Model, tokenizer: Tokenizer, ids: list[int], settings: GenerateSettings
) -> Iterator[TokenDelta]:
    request = Request(*fit_prompt(model, ids, settings), settings)
    scheduler = Scheduler(model, tokenizer, request.rows)
    scheduler.add(request)
    return (delta for _, delta in _run(scheduler))


def _run(scheduler: Scheduler) -> Iterator[tuple[int, TokenDelta]]:
    """Run a scheduler to the end; yields (request id, delta)."""
    with evaluating(scheduler.model):
        while scheduler.busy:
            for request_id, delta in scheduler.step():
                assert isinstance(delta, TokenDelta)
                yield request_id, delta


def generate_many(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[str | list[int]], settings: GenerateSettings
) -> list[Sample]:
    """Continue many prompts in batches: one sample each, the same as `generate` returns, up to rounding.

    Raises:
        ConfigError: the settings ask for several samples or beams, or a prompt fills the model's context.
        CheckpointError: the tokenizer does not belong to the model.
    """
    settings.check()
    if settings.beams or settings.samples > 1:
        raise ConfigError("several prompts get one sample each: leave out --beams and --samples")
    requests = [
        Request(*fit_prompt(model, encode_prompt(model, tokenizer, prompt), settings), settings)
        for prompt in prompts
    ]
    scheduler = Scheduler(model, tokenizer, MAX_BATCH)
    # Longest first: memory peaks at the start, and prompts of similar length share a prefill.
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].ids), index))
    index_of = {scheduler.add(requests[index]): index for index in order}
    deltas: list[list[TokenDelta]] = [[] for _ in requests]
    for request_id, delta in _run(scheduler):
        deltas[index_of[request_id]].append(delta)
    return [
        collect(tokenizer.decode(request.ids), settings, own)[0]
        for request, own in zip(requests, deltas, strict=True)
    ]


def collect(prompt: str, settings: GenerateSettings, deltas: Iterable[TokenDelta]) -> list[Sample]:
    """Assemble a request's samples from all of its deltas."""
    texts = [""] * settings.samples
    ids: list[list[int]] = [[] for _ in texts]
    reasons: list[FinishReason] = ["length"] * settings.samples
    logprobs: list[list[TokenLogprob]] = [[] for _ in texts]
    for delta in deltas:
        texts[delta.sample] += delta.text
        if delta.id is not None:
            ids[delta.sample].append(delta.id)
        if delta.logprob is not None:
            logprobs[delta.sample].append(delta.logprob)
        reasons[delta.sample] = delta.finish_reason or "length"
    kept = logprobs if settings.logprobs is not None else [None] * settings.samples
    return [Sample(prompt, *parts) for parts in zip(texts, ids, reasons, kept, strict=True)]


def encode_prompt(model: Model, tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """Encode a prompt as the model saw texts begin in training: after the beginning-of-text token, if there is one.

    A list of ids is returned unchanged.

    Raises:
        CheckpointError: the tokenizer has ids that the model does not have.
        ConfigError: the prompt is empty and the tokenizer has no special token to start from.
    """
    check_match(tokenizer, model.config.vocab_size, "this model")
    if not isinstance(prompt, str):
        return prompt
    ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(prompt)
    if not ids:
        if tokenizer.eos_id is None:
            raise ConfigError(
                "the prompt is empty, and this tokenizer has no special token to start a text from"
            )
        ids = [tokenizer.eos_id]
    return ids


def fit_prompt(model: Model, ids: list[int], settings: GenerateSettings) -> tuple[list[int], int]:
    """Return a prompt that leaves room in the context, and how many tokens may follow it.

    Raises:
        ConfigError: it leaves no room, and `settings.truncation` is "error".
    """
    context = model.config.context
    wanted = settings.max_tokens or MAX_TOKENS
    if settings.truncation == "left":
        room = min(wanted, context - 1)
        ids = ids[max(0, len(ids) + room - context) :]
    if len(ids) >= context:
        raise ConfigError(
            f"the prompt has {len(ids):,} tokens, and the model's context of {context:,} must also hold the answer: "
            "shorten the prompt"
        )
    return ids, min(wanted, context - len(ids))
