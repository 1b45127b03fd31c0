"""`gptworks generate`: continue a prompt with a MODEL."""

from __future__ import annotations

import codecs
import dataclasses
import json as jsons
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.generation.requests import DTypeOption, GenerateSettings
from gptworks.recipe import DeviceOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gptworks.generation.engine import Sample, TokenDelta
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
            help="Text to continue; - reads it from standard input. Default: start a new text.",
            allow_leading_hyphen=True,
        ),
    ] = "",
    instruction: Annotated[
        str | None, Parameter(help="Instruction to answer, formatted with the chat template of the model.")
    ] = None,
    input: Annotated[str, Parameter(help="Input for the instruction.")] = "",
    settings: Annotated[GenerateSettings, Parameter(name="*")] = GenerateSettings(),  # noqa: B008 - frozen
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    stream: Annotated[bool, Parameter(negative=(), help="Print the text as it is generated.")] = False,
    json: Annotated[
        bool,
        Parameter(
            negative=(), help="Print a JSON list with prompt, text, ids and finish_reason of each sample."
        ),
    ] = False,
) -> None:
    """Continue a prompt with a trained model, or let it answer an instruction."""
    _check_options(stream=stream, json=json, prompt=prompt, instruction=instruction, input=input)
    prompt = _read_stdin() if prompt == "-" else prompt
    settings = dataclasses.replace(settings, stop=tuple(map(_unescape, settings.stop)))
    settings.check()
    from gptworks.devices import choose_device
    from gptworks.generation import engine, loading

    folder = loading.find_language_model(spec)
    tokenizer = loading.matching_tokenizer(folder, spec)
    model_input: str | list[int] = prompt
    if instruction is not None:
        model_input, prompt = _apply_template(spec, tokenizer, instruction, input), ""
    model = loading.open_model(folder, dtype, choose_device(device))
    if instruction is not None and settings.max_tokens is None:
        settings = dataclasses.replace(settings, max_tokens=model.config.context)
    if stream:
        _print_stream(prompt, settings.samples, engine.stream(model, tokenizer, model_input, settings))
        return
    samples = engine.generate(model, tokenizer, model_input, settings)
    if json:
        lines = [jsons.dumps(_to_dict(sample), ensure_ascii=False) for sample in samples]
        print("[" + ",\n ".join(lines) + "]")
        return
    for index, sample in enumerate(samples):
        _print_heading(index, len(samples))
        print(sample.text if instruction is not None else sample.prompt + sample.text)


def _read_stdin() -> str:
    """Read a prompt from standard input, without a final newline.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError("--prompt -: standard input is not UTF-8") from None


def _to_dict(sample: Sample) -> dict[str, Any]:
    row = dataclasses.asdict(sample)
    if row["logprobs"] is None:
        del row["logprobs"]
    return row


def _check_options(*, stream: bool, json: bool, prompt: str, instruction: str | None, input: str) -> None:
    if stream and json:
        raise ConfigError("--stream and --json cannot be combined: leave out one of them")
    if prompt and instruction is not None:
        raise ConfigError("--prompt and --instruction cannot be combined: leave out one of them")
    if input and instruction is None:
        raise ConfigError("--input requires --instruction")


def _apply_template(spec: str, tokenizer: Tokenizer, instruction: str, input: str) -> list[int]:
    """Ids of an instruction in the model's chat template."""
    from gptworks.errors import CheckpointError
    from gptworks.text.templates import Chat, Message

    if tokenizer.chat_template is None:
        raise CheckpointError(
            f"{spec} has no chat template, so it cannot answer instructions; use --prompt, or train it with "
            "gptworks finetune instruct"
        )
    return Chat(tokenizer).prompt([Message("user", instruction, input)])


def _print_heading(index: int, samples: int) -> None:
    if samples > 1:
        print(f"--- {index + 1} of {samples} ---")


def _print_stream(prompt: str, samples: int, deltas: Iterable[TokenDelta]) -> None:
    """Print one sample after the other. All grow together, so the deltas of later samples wait in a buffer."""
    waiting: list[list[TokenDelta]] = [[] for _ in range(samples)]
    current = 0
    _print_start(prompt, current, samples)
    for delta in deltas:
        waiting[delta.sample].append(delta)
        while current < samples and waiting[current]:
            ended = any(delta.finish_reason for delta in waiting[current])
            print("".join(delta.text for delta in waiting[current]), end="", flush=True)
            waiting[current] = []
            if not ended:
                break
            print()
            current += 1
            if current < samples:
                _print_start(prompt, current, samples)


def _print_start(prompt: str, index: int, samples: int) -> None:
    _print_heading(index, samples)
    print(prompt, end="", flush=True)


def _unescape(string: str) -> str:
    r"""Interpret the escapes (\n, \t, \u2026) in a stop string."""
    try:
        return codecs.decode(string.encode("latin-1", "backslashreplace"), "unicode_escape")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--stop {string!r} has an invalid escape ({error.reason}); write \\\\ for a backslash"
        ) from None
