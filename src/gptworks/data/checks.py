"""Checks before anything is read, and whether a folder holds work on the same inputs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gptworks import renames
from gptworks.data import work_units
from gptworks.data.shards import MAX_TOKENS
from gptworks.data.sources import Source
from gptworks.errors import ConfigError
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

NEUTRAL = frozenset(
    ["workers", "on_error", "sources", "val_source", "engine", "engine_tasks", "partition", "task_hours"]
)
"""Options that do not change the result, or are recorded elsewhere. What on_error=stop finished had no errors."""


def check_options(options: PrepareOptions, tokenizer: Tokenizer) -> None:
    """Check the options against each other and the tokenizer.

    Raises:
        ConfigError: two of them contradict each other.
    """
    if not options.sources:
        raise ConfigError("prepare.sources is empty: name files, folders, `python` or hf:OWNER/NAME")
    if options.weights and len(options.weights) != len(options.sources):
        raise ConfigError(
            f"prepare.weights has {len(options.weights)} values for {len(options.sources)} prepare.sources"
        )
    if options.drop_long and options.max_words is None:
        raise ConfigError("prepare.drop_long needs prepare.max_words")
    if options.shard_tokens > MAX_TOKENS:
        raise ConfigError(
            f"prepare.shard_tokens={options.shard_tokens:,} is more than a shard can hold, {MAX_TOKENS:,}"
        )
    if (options.val_split_by == "source") != bool(options.val_source):
        raise ConfigError(
            "prepare.val_split_by=source and prepare.val_source need each other: set both or neither"
        )
    separator = options.separator
    if separator != "none" and tokenizer.eos_id is None:
        raise ConfigError(
            f"prepare.separator={separator} needs an end-of-text token, which the tokenizer does not have: add one, or "
            "use --separator none"
        )
    if separator == "bos-eos" and tokenizer.bos_id is None:
        raise ConfigError(
            "prepare.separator=bos-eos needs a beginning-of-text token, which the tokenizer does not have: add one "
            "with --add-tokens '<|bos|>', or use --separator eos-after"
        )


def check_sources(sources: Sequence[Source], options: PrepareOptions) -> None:
    """Check the options against the formats of the sources.

    Raises:
        ConfigError: an option needs text, and a source is already tokenized.
    """
    text_options = [
        name for name in ("subsets", "min_words", "max_words", "parse_special") if getattr(options, name)
    ]
    for source in sources:
        if text_options and any(file.format == "tokens" for file in source.files):
            raise ConfigError(f"prepare.{text_options[0]} needs text, but {source.name} is already tokenized")


def describe(options: PrepareOptions, sources: Sequence[Source], tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that the result depends on, independent of paths and of the order of the options."""
    chosen = {key: value for key, value in asdict(options).items() if key not in NEUTRAL}
    inputs = {
        "piece_bytes": work_units.UNIT_BYTES,
        "tokenizer": tokenizer.fingerprint,
        "options": chosen | {"val_source": [source.validation for source in sources]},
        "sources": [
            {"name": source.name, "identity": source.identity, **({"hub": source.hub} if source.hub else {})}
            for source in sources
        ],
    }
    return json.loads(json.dumps(inputs))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the inputs that differ; empty if the result would be the same."""
    was = renames.translate({"prepare": before["options"]}).get("prepare", {})
    now = after["options"]
    found = [f"prepare.{key}" for key in {**was, **now} if was.get(key) != now.get(key)]
    found += [key for key in ("tokenizer", "piece_bytes") if before.get(key) != after.get(key)]
    if len(before["sources"]) != len(after["sources"]):
        return [*found, "prepare.sources"]
    pairs = zip(before["sources"], after["sources"], strict=True)
    return found + [new["name"] for old, new in pairs if old["identity"] != new["identity"]]
