"""What can be refused before anything is read, and whether a folder was begun from the same inputs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gptworks.data import pieces
from gptworks.data.shards import MAX_TOKENS
from gptworks.data.sources import Source
from gptworks.errors import ConfigError
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

NEUTRAL = (
    "workers",
    "on_error",
    "sources",
    "val_source",
    "engine",
    "engine_tasks",
    "partition",
    "task_hours",
)
"""Options that do not change a result, or are kept otherwise. What on_error=stop finished had no errors."""


def check_options(options: PrepareOptions, tokenizer: Tokenizer) -> None:
    """Options against each other and the tokenizer.

    Raises:
        ConfigError: there is a contradiction.
    """
    if not options.sources:
        raise ConfigError("prepare.sources is empty: name files, folders, `python` or hf:OWNER/NAME")
    if options.weights and len(options.weights) != len(options.sources):
        raise ConfigError(
            f"prepare.weights has {len(options.weights)} numbers for {len(options.sources)} prepare.sources"
        )
    if options.drop_long and options.max_words is None:
        raise ConfigError("prepare.drop_long needs prepare.max_words: how long is long?")
    if options.shard_tokens > MAX_TOKENS:
        raise ConfigError(
            f"prepare.shard_tokens={options.shard_tokens:,} is over what a shard can hold, {MAX_TOKENS:,}"
        )
    _check_validation(options)
    _check_marks(options, tokenizer)


def _check_validation(options: PrepareOptions) -> None:
    if (options.val_by == "source") != bool(options.val_source):
        raise ConfigError("prepare.val_by=source and prepare.val_source go together: give both or neither")


def _check_marks(options: PrepareOptions, tokenizer: Tokenizer) -> None:
    if options.marks != "none" and tokenizer.eos_id is None:
        raise ConfigError(
            f"prepare.marks={options.marks} needs an end-of-text token, and the tokenizer has none: add one, "
            "or say --marks none"
        )
    if options.marks == "bos-eos" and tokenizer.bos_id is None:
        raise ConfigError(
            "prepare.marks=bos-eos needs a beginning-of-text token, and the tokenizer has none: add one by "
            "--add-tokens '<|bos|>', or say --marks eos-after"
        )


def check_sources(sources: Sequence[Source], options: PrepareOptions) -> None:
    """Options against the kinds of sources.

    Raises:
        ConfigError: an option needs text where a source is tokens already.
    """
    about_text = ("keep_sets", "min_words", "max_words", "special_text")
    given = [name for name in about_text if getattr(options, name)]
    for source in sources:
        if given and any(file.format == "tokens" for file in source.files):
            raise ConfigError(f"prepare.{given[0]} needs text, and {source.name} is tokens already")


def describe(options: PrepareOptions, sources: Sequence[Source], tokenizer: Tokenizer) -> dict[str, Any]:
    """All that a result depends on; neither paths nor the order in which options were written."""
    chosen = {key: value for key, value in asdict(options).items() if key not in NEUTRAL}
    described = {
        "piece_bytes": pieces.PIECE_BYTES,
        "tokenizer": tokenizer.fingerprint,
        "options": chosen | {"val_source": [source.validation for source in sources]},
        "sources": [
            {"name": source.name, "identity": source.identity, **({"hub": source.hub} if source.hub else {})}
            for source in sources
        ],
    }
    return json.loads(json.dumps(described))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the inputs that are others; empty if the same result would come out."""
    options = {**before["options"], **after["options"]}
    found = [f"prepare.{key}" for key in options if before["options"].get(key) != after["options"].get(key)]
    found += [key for key in ("tokenizer", "piece_bytes") if before.get(key) != after.get(key)]
    if len(before["sources"]) != len(after["sources"]):
        return [*found, "prepare.sources"]
    pairs = zip(before["sources"], after["sources"], strict=True)
    return found + [new["name"] for old, new in pairs if old["identity"] != new["identity"]]
