"""`gptworks generate`: a MODEL continues a prompt."""

from __future__ import annotations

import codecs
import dataclasses
import json as jsons
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.generate.settings import GenerateSettings, WeightsOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gptworks.generate.engine import Piece, Sample
    from gptworks.text.tokenizer import Tokenizer


def generate(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run, RUN@best, RUN@step-400, a model folder or a Hub id.")
    ],
    /,
    *,
    prompt: Annotated[
        str,
        Parameter(
            help="What to continue; - reads it from standard input. Default: a text from its beginning.",
            allow_leading_hyphen=True,
        ),
    ] = "",
    instruction: Annotated[
        str | None,
        Parameter(help="What to answer, asked as the model was taught: by the template in its folder."),
    ] = None,
    input: Annotated[str, Parameter(help="What the instruction is about.")] = "",
    settings: Annotated[GenerateSettings, Parameter(name="*")] = GenerateSettings(),  # noqa: B008 - frozen
    weights: WeightsOption = "auto",
    stream: Annotated[bool, Parameter(negative=(), help="Print the text as it comes.")] = False,
    json: Annotated[
        bool,
        Parameter(negative=(), help="Print a list with prompt, text, ids and finish_reason of every sample."),
    ] = False,
) -> None:
    """Continue a prompt with a trained model, or have it answer an instruction."""
    _check_together(stream=stream, json=json, prompt=prompt, instruction=instruction, input=input)
    prompt = _read() if prompt == "-" else prompt
    settings = dataclasses.replace(settings, stop=tuple(_interpret(string) for string in settings.stop))
    settings.check()
    from gptworks.generate import engine, loading

    folder = loading.writer(spec)
    tokenizer = loading.matching_tokenizer(folder, spec)
    asked: str | list[int] = prompt
    if instruction is not None:
        asked, prompt = _as_taught(spec, tokenizer, instruction, input), ""
    model = loading.open_model(folder, weights)
    if instruction is not None and settings.max_tokens is None:
        settings = dataclasses.replace(settings, max_tokens=model.config.context)
    if stream:
        _print_pieces(prompt, settings.samples, engine.stream(model, tokenizer, asked, settings))
        return
    samples = engine.generate(model, tokenizer, asked, settings)
    if json:
        lines = [jsons.dumps(_facts(sample), ensure_ascii=False) for sample in samples]
        print("[" + ",\n ".join(lines) + "]")
        return
    for number, sample in enumerate(samples):
        _print_heading(number, len(samples))
        print(sample.text if instruction is not None else sample.prompt + sample.text)


def _read() -> str:
    """A prompt from standard input, without the end of its last line.

    Raises:
        ConfigError: it is no text.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError("--prompt -: what came from standard input is not UTF-8") from None


def _facts(sample: Sample) -> dict[str, Any]:
    facts = dataclasses.asdict(sample)
    return facts if facts["logprobs"] is not None else {k: v for k, v in facts.items() if k != "logprobs"}


def _check_together(*, stream: bool, json: bool, prompt: str, instruction: str | None, input: str) -> None:
    if stream and json:
        raise ConfigError("--stream and --json exclude each other: leave out one of them")
    if prompt and instruction is not None:
        raise ConfigError("--prompt and --instruction exclude each other: leave out one of them")
    if input and instruction is None:
        raise ConfigError("--input goes with --instruction")


def _as_taught(spec: str, tokenizer: Tokenizer, instruction: str, input: str) -> list[int]:
    """Ids of an instruction in the template that the model was trained with."""
    from gptworks.errors import CheckpointError
    from gptworks.text.templates import Chat, Message

    if tokenizer.chat_template is None:
        raise CheckpointError(
            f"{spec} was not taught to answer: it has no chat template. Use --prompt, or teach it with "
            "gptworks finetune instruct"
        )
    return Chat(tokenizer).prompt([Message("user", instruction, input)])


def _print_heading(number: int, of: int) -> None:
    if of > 1:
        print(f"--- {number + 1} of {of} ---")


def _print_pieces(prompt: str, samples: int, pieces: Iterable[Piece]) -> None:
    """Sample after sample, though they grow together: each as it comes, once it is its turn."""
    waiting: list[list[Piece]] = [[] for _ in range(samples)]
    turn = 0
    _begin(prompt, turn, samples)
    for piece in pieces:
        waiting[piece.sample].append(piece)
        while turn < samples and waiting[turn]:
            ended = any(piece.finish_reason for piece in waiting[turn])
            print("".join(piece.text for piece in waiting[turn]), end="", flush=True)
            waiting[turn] = []
            if not ended:
                break
            print()
            turn += 1
            if turn < samples:
                _begin(prompt, turn, samples)


def _begin(prompt: str, number: int, of: int) -> None:
    _print_heading(number, of)
    print(prompt, end="", flush=True)


def _interpret(string: str) -> str:
    r"""A stop string as typed, its escapes (\n, \t, \u2026) made characters."""
    try:
        return codecs.decode(string.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--stop {string!r} has a broken escape ({error.reason}); write \\\\ for a backslash"
        ) from None
