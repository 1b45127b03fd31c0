"""Options that version 0.1 called something else: one table from old names and values to new ones.

Files that version 0.1 wrote itself (a run's or campaign's recipe.toml, a Dataset's manifest) are translated as they
are read. Recipes and command lines that a person writes are refused with the new name, because two spellings of one
option would last forever; `gptworks recipes upgrade` rewrites a file.
"""

import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from gptworks.errors import ConfigError

Tables = dict[str, Any]

GLUE_TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")

OPTIONS = {
    "train.patience": "train.max_bad_steps",
    "train.rollbacks": "train.max_rollbacks",
    "train.spike": "train.spike_sigma",
    "train.wait_minutes": "train.comm_timeout_minutes",
    "train.skip_first": "train.ignore_first",
    "train.reshard": "train.reshard_after_forward",
    "train.gather_in": "train.comm_dtype",
    "optim.kind": "optim.name",
    "optim.matrix_lr": "optim.muon_lr",
    "optim.momentum": "optim.muon_momentum",
    "optim.decay": "optim.weight_decay_on",
    "optim.clip": "optim.grad_clip",
    "lora.base_bits": "lora.base_dtype",
    "prepare.marks": "prepare.separator",
    "prepare.special_text": "prepare.parse_special",
    "prepare.keep_sets": "prepare.subsets",
    "prepare.set_key": "prepare.subset_key",
    "prepare.val_by": "prepare.val_split_by",
    "classify.kind": "classify.problem_type",
    "classify.pair": "classify.text_pair",
    "classify.pair_separator": "classify.text_pair_separator",
    "classify.batch": "classify.batch_examples",
    "classify.tries": "classify.n_seeds",
    "classify.keep_by": "classify.best_metric",
    "instruct.responses": "instruct.n_responses",
    "instruct.answer_tokens": "instruct.max_response_tokens",
    "instruct.batch": "instruct.batch_examples",
    "evaluate.shots": "evaluate.num_fewshot",
    "perplexity.skip_first": "perplexity.ignore_first",
    "glue.tries": "glue.n_seeds",
    "glue.epochs": "glue.train.epochs",
    "glue.dropout": "glue.train.dropout",
    "glue.seed": "glue.train.seed",
    "glue.precision": "glue.train.precision",
    "glue.micro_batch": "glue.train.micro_batch",
    "glue.eval_every": "glue.eval.every",
    "glue.lr": "glue.optim.lr",
    "glue.betas": "glue.optim.betas",
    "glue.weight_decay": "glue.optim.weight_decay",
    "glue.clip": "glue.optim.grad_clip",
    "glue.warmup": "glue.optim.warmup_fraction",
    "glue.batch": "glue.classify.batch_examples",
    "glue.limit": "glue.classify.limit",
    "glue.train_layers": "glue.classify.train_layers",
    "glue.pair_separator": "glue.classify.text_pair_separator",
    "glue.max_tokens": "glue.classify.max_tokens",
} | {f"glue.{task}.tries": f"glue.{task}.n_seeds" for task in GLUE_TASKS}
"""Dotted names of recipe options: old to new."""

VALUES: dict[str, dict[Any, str]] = {
    "lora.base_dtype": {32: "fp32", 16: "bf16", 8: "int8", 4: "nf4"},
    "classify.problem_type": {"classes": "classification", "number": "regression"},
    "instruct.too_long": {"shorten": "truncate"},
    "truncation": {"refuse": "error", "cut": "left"},
}
"""By an option's new name: old values to new."""

FLAGS = {
    "weights": "dtype",
    "overflow": "truncation",
    "lookup": "prompt_lookup",
    "batch": "max_batch",
    "queue": "max_queue",
    "device": "hardware",
}
"""Flags that no recipe has, old to new: of generate, chat and serve; batch and queue of serve; device of plan."""

KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
STATEMENT = re.compile(
    rf"(?P<key>\s*{KEY}(?:[ \t]*\.[ \t]*{KEY})*)(?P<equals>[ \t]*=[ \t]*)(?P<value>.*)", re.S
)
SCALAR = re.compile(r"""(?P<scalar>"[^"\n]*"|'[^'\n]*'|[^\s#"']+)(?P<rest>\s*(?:#.*)?)""", re.S)


def translate(tables: Tables) -> Tables:
    """The tables of a recipe that version 0.1 wrote, with the names and values of today. Leaves new names alone."""
    translated: Tables = {}
    for path, value in _leaves(tables):
        name, value = _renamed(".".join(path), value)
        table, keys = translated, (name.split(".") if name != ".".join(path) else path)
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        if value == {}:
            table.setdefault(keys[-1], {})
        else:
            table[keys[-1]] = value
    return translated


def refusal(name: str, value: object = None) -> str | None:
    """The new spelling of an option that a person wrote as in version 0.1; None if the spelling is still right."""
    new, new_value = _renamed(name, value)
    if new_value != value:
        return f"{name} = {_toml(value)} is now {new} = {_toml(new_value)}"
    return f"{name} is now {new}" if new != name else None


def current(tables: Tables, file: Path) -> Tables:
    """The tables of a recipe file: translated if gptworks wrote the file for a run or a campaign.

    Raises:
        ConfigError: a person wrote the file, and it has old names. The message gives the new ones.
    """
    if file.name == "recipe.toml" and (file.parent / "environment.json").is_file():
        return translate(tables)
    refusals = [words for path, value in _leaves(tables) if (words := refusal(".".join(path), value))]
    if refusals:
        more = f"; and {len(refusals) - 4} more" if len(refusals) > 4 else ""
        raise ConfigError(
            f"{file} is written for version 0.1: {'; '.join(refusals[:4])}{more}. "
            f"`gptworks recipes upgrade {file}` rewrites it"
        )
    return tables


def new_flag(flag: str, known: Collection[str]) -> str | None:
    """The flag that replaced one of version 0.1, and its new values in words, if it is among the known flags.

    >>> new_flag("--train.patience", {"--train.max-bad-steps"})
    '--train.max-bad-steps'
    >>> new_flag("--lora.base-bits", {"--lora.base-dtype"})
    '--lora.base-dtype (fp32 for 32, bf16 for 16, int8 for 8, nf4 for 4)'
    """
    table, _, key = flag.strip("-[]").replace("][", ".").replace("-", "_").rpartition(".")
    no = "no_" if key.startswith("no_") else ""
    old = ".".join(filter(None, (table, key.removeprefix(no))))
    for name, new in (OPTIONS | FLAGS).items():
        short = new.partition(".")[2]  # a verb leaves out its own table: `prepare --marks`
        spellings = {name: (new, short), name.partition(".")[2]: (short,)}
        for spelling in spellings.get(old, ()):
            option = "--" + re.sub(r"(\w+)$", rf"{no}\1", spelling).replace("_", "-")
            if option in known:
                values = ", ".join(f"{now} for {was}" for was, now in VALUES.get(new, {}).items())
                return f"{option} ({values})" if values else option
    return None


def upgrade(text: str) -> str:
    """A recipe's TOML text with new names and values; comments, order and layout stay.

    Works line by line, and compares the result with a translation of the parsed text.

    Raises:
        ConfigError: the text is not TOML, gives an option under both names, or has old names in an inline table.
    """
    try:
        old_tables = tomllib.loads(text)
        new = "".join(_upgraded(text))
        new_tables = tomllib.loads(new)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"this recipe cannot be upgraded: {error!s:.200}") from None
    if new_tables != translate(old_tables):
        left = [words for path, value in _leaves(new_tables) if (words := refusal(".".join(path), value))]
        raise ConfigError(
            "this recipe cannot be upgraded line by line: write each option on a line of its own, not in an inline "
            f"table ({'; '.join(left) or 'an option has both its names'})"
        )
    return new


def _leaves(tables: Tables, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of every option, and of every empty table."""
    for key, value in tables.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _renamed(name: str, value: Any) -> tuple[str, Any]:
    new = OPTIONS.get(name, name)
    values = VALUES.get(new, {})
    known = isinstance(value, str | int) and value in values
    return new, values[value] if known else value


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _upgraded(text: str) -> Iterator[str]:
    """The statements of a TOML text, each with its new name and value."""
    table: tuple[str, ...] = ()
    for statement in _statements(text):
        if statement.lstrip().startswith("["):
            table = _path(tomllib.loads(statement))
        elif match := STATEMENT.fullmatch(statement):
            statement = _upgraded_option(match, table)
        yield statement


def _statements(text: str) -> Iterator[str]:
    """Lines, with those of a value that spans several lines kept together."""
    statement = ""
    for line in re.findall(
        r"[^\n]*\n|[^\n]+", text
    ):  # str.splitlines also splits at what TOML keeps in a line
        statement += line
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        yield statement
        statement = ""
    yield statement


def _path(tables: Tables) -> tuple[str, ...]:
    """The keys that lead to the innermost table of a header, or to the value of one option."""
    path: tuple[str, ...] = ()
    while isinstance(tables, dict) and tables:
        ((key, tables),) = tables.items()
        path = (*path, key)
    return path


def _upgraded_option(match: re.Match[str], table: tuple[str, ...]) -> str:
    path = (*table, *_path(tomllib.loads(f"{match['key']} = 0")))
    old, value = ".".join(path), match["value"]
    new = OPTIONS.get(old, old)
    if scalar := SCALAR.fullmatch(value):
        parsed = tomllib.loads(f"value = {scalar['scalar']}")["value"]
        _, new_value = _renamed(old, parsed)
        if new_value != parsed:
            value = _toml(new_value) + scalar["rest"]
    if new == old:
        return match["key"] + match["equals"] + value
    indent = match["key"][: len(match["key"]) - len(match["key"].lstrip())]
    return indent + new.removeprefix(".".join((*table, ""))) + match["equals"] + value
