"""The one generation engine: a prompt in, samples or a stream of their pieces out.

    prompt -> ids -> read once -> a token a step, all samples together -> whole characters -> up to a stop

A prompt and its continuation never exceed the model's context: a longer prompt is refused, and a sample that
reaches the end finishes with "length".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from gptworks.errors import CheckpointError, ConfigError
from gptworks.generate.beam import search
from gptworks.generate.continuation import Continuation, evaluating
from gptworks.generate.sampling import draw, noise
from gptworks.generate.settings import GenerateSettings
from gptworks.generate.stopping import SampleText
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer

__all__ = ["FinishReason", "GenerateSettings", "Piece", "Sample", "generate", "stream"]

MAX_TOKENS = 64
"""Of a sample, where nobody says."""

FinishReason = Literal["stop", "length", "eos"]
"""Why a sample ended: a stop string, max_tokens or the context, or the model's own end of text."""


@dataclass(frozen=True)
class Sample:
    """A prompt's continuation."""

    prompt: str
    text: str
    """New text only, without stop string and end of text."""
    ids: list[int]
    """The new tokens, without the end of text. After a stop string they may say a little more than `text`."""
    finish_reason: FinishReason


@dataclass(frozen=True)
class Piece:
    """What one token adds to one sample."""

    sample: int
    text: str
    """Whole characters; may be empty."""
    id: int | None
    """The token; None for the end of text."""
    finish_reason: FinishReason | None
    """Set on a sample's last piece."""


def generate(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> list[Sample]:
    """Continue a prompt, `settings.samples` times. An empty prompt starts at the beginning of a document.

    A prompt may be given as ids, such as a chat template makes.

    Raises:
        ConfigError: settings that contradict each other, or a prompt that fills the model's context.
        CheckpointError: the tokenizer is not this model's.
    """
    if settings.beams:
        return _by_beams(model, tokenizer, prompt, settings)
    texts = [""] * settings.samples
    ids: list[list[int]] = [[] for _ in texts]
    reasons: list[FinishReason] = ["length"] * settings.samples
    for piece in stream(model, tokenizer, prompt, settings):
        texts[piece.sample] += piece.text
        if piece.id is not None:
            ids[piece.sample].append(piece.id)
        reasons[piece.sample] = piece.finish_reason or "length"
    said = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
    return [Sample(said, *parts) for parts in zip(texts, ids, reasons, strict=True)]


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
    ids = prompt_ids(model, tokenizer, prompt)
    return _stream(model, tokenizer, ids, room(model, ids, settings), settings)


def _stream(
    model: Model, tokenizer: Tokenizer, ids: list[int], n_new: int, settings: GenerateSettings
) -> Iterator[Piece]:
    texts = [SampleText(tokenizer, settings.stop) for _ in range(settings.samples)]
    with evaluating(model):
        run = Continuation(model, tokenizer.vocab_size, len(ids) + n_new)
        uniform = noise(settings, n_new, run.device)
        logits = run.read(ids).expand(settings.samples, -1)
        run.split(torch.zeros(settings.samples, dtype=torch.long, device=run.device))
        alive = list(range(settings.samples))  # row -> sample
        for index in range(n_new):
            new = draw(logits, settings, uniform[:, index])
            going = []
            for row, (sample, id) in enumerate(zip(alive, new.tolist(), strict=True)):
                piece = _piece(sample, texts[sample], id, id == tokenizer.eos_id, index == n_new - 1)
                if piece.finish_reason is None:
                    going.append(row)
                yield piece
            if not going:
                return
            if len(going) < len(alive):
                rows = torch.tensor(going, device=run.device)
                run.split(rows)
                alive, new, uniform = [alive[row] for row in going], new[rows], uniform[rows]
            logits = run.step(new)


def _piece(sample: int, text: SampleText, id: int, ends: bool, last: bool) -> Piece:
    said = "" if ends else text.push(id)
    if ends or last:
        said += text.end()
    reason = "stop" if text.stopped else "eos" if ends else "length" if last else None
    return Piece(sample, said, None if ends else id, reason)


def _by_beams(
    model: Model, tokenizer: Tokenizer, prompt: str | list[int], settings: GenerateSettings
) -> list[Sample]:
    settings.check()
    ids = prompt_ids(model, tokenizer, prompt)
    n_new = room(model, ids, settings)
    with evaluating(model):
        run = Continuation(model, tokenizer.vocab_size, len(ids) + n_new)
        found = search(run, ids, n_new, tokenizer.eos_id, settings)
    samples = []
    for beam in found:
        text = SampleText(tokenizer, settings.stop)
        said = "".join(text.push(id) for id in beam.ids) + text.end()
        reason: FinishReason = "stop" if text.stopped else "eos" if beam.ended else "length"
        asked = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        samples.append(Sample(asked, said, beam.ids, reason))
    return samples


def prompt_ids(model: Model, tokenizer: Tokenizer, prompt: str | list[int]) -> list[int]:
    """A prompt as the model has seen texts begin: after the beginning mark, where there is one of its own.

    Ids are taken as they are.

    Raises:
        CheckpointError: the tokenizer has ids that the model has not.
        ConfigError: an empty prompt, and a tokenizer without any mark to start from.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model {model.config.vocab_size:,}: "
            "it is not this model's"
        )
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


def room(model: Model, ids: list[int], settings: GenerateSettings) -> int:
    """How many tokens may follow."""
    context = model.config.context
    if len(ids) >= context:
        raise ConfigError(
            f"the prompt has {len(ids):,} tokens, and the model's context of {context:,} must hold "
            "the answer too: shorten it"
        )
    return min(settings.max_tokens or MAX_TOKENS, context - len(ids))
