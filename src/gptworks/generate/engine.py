"""The one generation engine: a prompt in, samples or a stream of their pieces out.

    prompt -> ids -> read once -> a token a step, all samples together -> whole characters -> up to a stop

scheduler.py does the work, for one prompt here, for many in batch.py, for whoever asks in serve/. A prompt and its
continuation never exceed the model's context: a longer prompt is refused, or its beginning cut off where the settings
say so, and a sample that reaches the end finishes with "length".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gptworks.errors import ConfigError
from gptworks.generate.continuation import evaluating
from gptworks.generate.loading import check_match
from gptworks.generate.logprobs import TokenLogprob
from gptworks.generate.requests import FinishReason, Piece, Request
from gptworks.generate.scheduler import Scheduler
from gptworks.generate.settings import GenerateSettings
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer

__all__ = ["FinishReason", "GenerateSettings", "Piece", "Sample", "generate", "stream"]

MAX_TOKENS = 64
"""Of a sample, where nobody says."""


@dataclass(frozen=True)
class Sample:
    """A prompt's continuation."""

    prompt: str
    text: str
    """New text only, without stop string and end of text."""
    ids: list[int]
    """The new tokens, without the end of text. After a stop string they may say a little more than `text`."""
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    """Of each of the ids, where the settings ask for it."""


def generate(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> list[Sample]:
    """Continue a prompt, `settings.samples` times. An empty prompt starts at the beginning of a document.

    A prompt may be given as ids, such as a chat template makes.

    Raises:
        ConfigError: settings that contradict each other, or a prompt that fills the model's context.
        CheckpointError: the tokenizer is not this model's.
    """
    settings.check()
    pieces = _stream(model, tokenizer, prompt_ids(model, tokenizer, prompt), settings)
    return collect(prompt if isinstance(prompt, str) else tokenizer.decode(prompt), settings, pieces)


def stream(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> Iterator[Piece]:
    """The same, piece by piece as tokens come; the samples' pieces take turns.

    Raises:
        ConfigError, CheckpointError: as `generate`; also for beams, which know nothing before the end.
    """
    settings.check()
    if settings.beams:
        raise ConfigError(
            "--beams cannot stream: which beam is best is known at the end only; leave out one of the two"
        )
    return _stream(model, tokenizer, prompt_ids(model, tokenizer, prompt), settings)


def _stream(
    model: Model, tokenizer: Tokenizer, ids: list[int], settings: GenerateSettings
) -> Iterator[Piece]:
    request = Request(*fitted(model, ids, settings), settings)

    def pieces() -> Iterator[Piece]:
        scheduler = Scheduler(model, tokenizer, request.rows)
        scheduler.add(request)
        with evaluating(model):
            while scheduler.busy:
                for _, piece in scheduler.step():
                    assert isinstance(piece, Piece)
                    yield piece

    return pieces()


def collect(prompt: str, settings: GenerateSettings, pieces: Iterable[Piece]) -> list[Sample]:
    """A request's samples from all of its pieces."""
    texts = [""] * settings.samples
    ids: list[list[int]] = [[] for _ in texts]
    reasons: list[FinishReason] = ["length"] * settings.samples
    said: list[list[TokenLogprob]] = [[] for _ in texts]
    for piece in pieces:
        texts[piece.sample] += piece.text
        if piece.id is not None:
            ids[piece.sample].append(piece.id)
        if piece.logprob is not None:
            said[piece.sample].append(piece.logprob)
        reasons[piece.sample] = piece.finish_reason or "length"
    kept = said if settings.logprobs is not None else [None] * settings.samples
    return [Sample(prompt, *parts) for parts in zip(texts, ids, reasons, kept, strict=True)]


def prompt_ids(model: Model, tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """A prompt as the model has seen texts begin: after the beginning mark, where there is one of its own.

    Ids are taken as they are.

    Raises:
        CheckpointError: the tokenizer has ids that the model has not.
        ConfigError: an empty prompt, and a tokenizer without any mark to start from.
    """
    check_match(tokenizer, model.config.vocab_size, "this model")
    if not isinstance(prompt, str):
        return prompt
    ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(prompt)
    if not ids:
        if tokenizer.eos_id is None:
            raise ConfigError(
                "the prompt is empty, and this tokenizer has no mark that a text could begin after"
            )
        ids = [tokenizer.eos_id]
    return ids


def fitted(model: Model, ids: list[int], settings: GenerateSettings) -> tuple[list[int], int]:
    """A prompt that leaves room in the context, and how many tokens may follow.

    Raises:
        ConfigError: it leaves none, and nothing may be cut.
    """
    context = model.config.context
    wanted = settings.max_tokens or MAX_TOKENS
    if settings.overflow == "cut":
        room = min(wanted, context - 1)
        ids = ids[max(0, len(ids) + room - context) :]
    if len(ids) >= context:
        raise ConfigError(
            f"the prompt has {len(ids):,} tokens, and the model's context of {context:,} must hold "
            "the answer too: shorten it"
        )
    return ids, min(wanted, context - len(ids))
