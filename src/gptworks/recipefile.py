"""Recipes as TOML files and as tables: merged over defaults, validated, and written back.

One path serves the command line and the Python API: tables as in TOML are laid over the recipe file and the command's
defaults (`merged`), and `build` validates the result against recipe.py: types, ranges and unknown keys.
"""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from cyclopts import (
    App,
    CycloptsError,
    Parameter,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.config import Dict

from gptworks import renames
from gptworks.errors import ConfigError
from gptworks.recipe import Recipe

T = TypeVar("T")

Tables = dict[str, Any]
"""A recipe as nested dicts, as TOML has it; only what was set."""

FINETUNING: Tables = {"optim": {"lr": 5e-5, "schedule": "linear", "final_lr": 0.0}, "eval": {"every": 50}}
"""Defaults of fine-tuning where they differ from pretraining's."""

LORA: Tables = {"optim": {"lr": 5e-4}}
"""Defaults with adapters: they start at zero and need a higher learning rate."""

EXCLUSIVE = (("train", "max_steps", "epochs"), ("train", "epochs", "max_steps"))
"""Two ways to say the same: the one that is given removes the other from the layers below."""

ELSEWHERE = {
    "accumulation-steps": "--batch-examples --train.batch-tokens",
    "always-save-checkpoint": "--save.every",
    "base": "--model",
    "batch-size": "--batch-examples --train.batch-tokens --train.micro-batch",
    "beta1": "--optim.betas",
    "beta2": "--optim.betas",
    "bias": "--model.bias",
    "block-size": "--model.context --max-tokens",
    "checkpoint-path": "--out",
    "compile": "--train.compile",
    "data-dir": "--data --sources",
    "dataset": "--data --sources",
    "decay-lr": "--optim.schedule",
    "dropout": "--model.dropout --train.dropout",
    "dtype": "--train.precision --precision",
    "epochs": "--train.epochs",
    "eval-interval": "--eval.every",
    "eval-iters": "--eval.tokens",
    "eval-steps": "--eval.every",
    "grad-accum": "--batch-examples --train.batch-tokens",
    "grad-accum-steps": "--batch-examples --train.batch-tokens",
    "grad-clip": "--optim.grad-clip",
    "gradient-accumulation-steps": "--batch-examples --train.batch-tokens",
    "init-from": "--base --model --resume",
    "label-column": "--label",
    "learning-rate": "--optim.lr",
    "log-interval": "--log.every",
    "logging-steps": "--log.every",
    "lr": "--optim.lr",
    "lr-decay-iters": "--optim.decay-steps",
    "max-grad-norm": "--optim.grad-clip",
    "max-iters": "--train.max-steps",
    "max-new-tokens": "--max-tokens",
    "max-steps": "--train.max-steps",
    "min-lr": "--optim.final-lr",
    "n-embd": "--model.n-embd",
    "n-head": "--model.n-head",
    "n-layer": "--model.n-layer",
    "num-epochs": "--train.epochs",
    "num-samples": "--samples",
    "num-train-epochs": "--train.epochs",
    "out-dir": "--out",
    "output-dir": "--out",
    "per-device-train-batch-size": "--batch-examples --train.batch-tokens --train.micro-batch",
    "save-steps": "--save.every",
    "save-total-limit": "--save.keep",
    "seed": "--train.seed",
    "start": "--prompt",
    "steps": "--train.max-steps",
    "text-column": "--text --column",
    "wandb-log": "--log.wandb",
    "wandb-project": "--log.wandb",
    "warmup-iters": "--optim.warmup-steps",
    "warmup-steps": "--optim.warmup-steps",
}
"""Option names of nanoGPT, transformers and others, and ours; a command has some of these."""

UNITS = {
    "compile": "auto, on or off",
    "eval-iters": "in tokens, not batches",
    "min-lr": "a fraction of the peak, not a rate",
}
"""How the units of some of these differ from theirs."""

NEEDLESS = {
    "backend": "GPUs use NCCL and CPUs use gloo",
    "eval-only": "`gptworks evaluate MODEL` evaluates without training",
    "vocab-size": "the tokenizer sets it: `gptworks tokenizer train --vocab-size`",
}
"""Options of theirs that we do not need, and why."""

COMMANDS = {
    "eval": "evaluate",
    "inference": "generate",
    "preprocess": "prepare",
    "sample": "generate",
    "sft": "finetune instruct",
    "train": "pretrain",
}
"""Command names of other tools, and ours."""

FOREIGN = {
    ".py": "write its settings as flags or in a recipe; see gptworks pretrain --help",
    ".txt": "gptworks import-config converts algrshn/gpt-pytorch's config.txt; data is named by flags",
}
"""Config files of other tools, and what to do instead."""

LONG = 400
"""Words longer than this are shortened in messages."""

TABLED = r"\[(\w+)\]\[(\w+)\]"
"""How cyclopts spells a key in a file's table."""

FIELDS = {field.name: field.type for field in dataclasses.fields(Recipe)}


def load(file: Path) -> Recipe:
    """Read and validate a recipe file.

    Raises:
        ConfigError: the file does not exist, is not TOML, or has an unknown key, a wrong type or an impossible value;
            one line that names the key, the file and the nearest valid key.
    """
    return build(_parse(file), str(file))


def tables(file: Path) -> Tables:
    """What a recipe file sets, and only that, after `load` has validated it."""
    found = _parse(file)
    build(found, str(file))
    return found


def _parse(file: Path) -> Tables:
    if file.suffix in FOREIGN:
        raise ConfigError(f"{file} is not a recipe: recipes are TOML; {FOREIGN[file.suffix]}")
    try:
        return renames.current(tomllib.loads(file.read_text(encoding="utf-8")), file)
    except FileNotFoundError:
        raise ConfigError(
            f"{file} does not exist: `gptworks recipes` lists the recipes that come with gptworks"
        ) from None
    except IsADirectoryError:
        recipe = file / "recipe.toml"
        way = f"its recipe is {recipe}" if recipe.is_file() else f"give texts as --sources {file}"
        raise ConfigError(f"{file} is a folder, and a recipe is a TOML file; {way}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not a recipe: {error!s:.200}") from None


def build(tables: Tables, source: str = "the options") -> Recipe:
    """The recipe that these tables describe; `source` is named in messages.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    _check_types(Recipe, tables, source)
    for name, value in tables.items():
        if name in FIELDS and dataclasses.is_dataclass(FIELDS[name]) != isinstance(value, dict):
            kind = "not a table" if isinstance(value, dict) else f"a table: write [{name}]"
            raise ConfigError(f"{source}: {name} is {kind}")

    return construct(Recipe, tables, source)


def construct(cls: type[T], tables: Tables, source: str) -> T:
    """An instance of an options class from tables, validated as flags are.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """

    def take(*, options: Annotated[cls, Parameter(name="*")] = cls()) -> T:  # type: ignore[valid-type]  # noqa: B008 - frozen
        return options

    reader = App(default_command=take, config=layer(tables, source), result_action="return_value")
    try:
        return reader([], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        words = one_line(error)
        raise ConfigError(words if source in words else f"{source}: {words}") from None
    except RecursionError:
        raise ConfigError(f"{source} is not a recipe: its tables are nested too deeply") from None


def _check_types(cls: Any, tables: Mapping[str, Any], source: str, prefix: str = "") -> None:
    """Refuse what cyclopts, made for flags, would convert: `out = 3` to "3", and `n_layer = 2.5` to 2."""
    hints = typing.get_type_hints(cls)
    for name, value in tables.items():
        hint = hints.get(name)
        if isinstance(value, dict) and dataclasses.is_dataclass(hint):
            _check_types(hint, value, source, f"{prefix}{name}.")
        elif isinstance(value, int | float) and kinds(hint) & {str, Path}:
            raise ConfigError(f"{source}: {prefix}{name} = {value} must be text, in quotes")
        elif isinstance(value, float) and value % 1 and is_integer(hint):
            raise ConfigError(f"{source}: {prefix}{name} = {value} must be a whole number")


def kinds(hint: Any) -> set[Any]:
    """The types that an option's annotation allows: {int, NoneType} for PositiveInt | None."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return kinds(inner[0])
    if origin in {typing.Union, types.UnionType}:
        return set().union(*map(kinds, inner))
    return {origin or hint}


def is_integer(hint: Any) -> bool:
    """True if an option is a whole number."""
    return int in kinds(hint) and float not in kinds(hint)


def merged(verb: str, recipe: Tables, given: Tables) -> Tables:
    """What is `given` (by flags or the API), laid over a recipe and the defaults of a verb."""
    return merge(under(verb, recipe, names(given), given.get("lora", {}).get("rank")), given)


def under(verb: str, recipe: Tables, given: Iterable[str], rank: Any = None) -> Tables:
    """The tables to lay under options whose dotted names are `given`: the recipe over the verb's defaults.

    `rank` is lora.rank if it was given.
    """
    for table, name, other in EXCLUSIVE:
        if f"{table}.{name}" in given and other in recipe.get(table, {}):
            kept = {key: value for key, value in recipe[table].items() if key != other}
            recipe = recipe | {table: kept}
    if not verb.startswith("finetune"):
        return recipe
    rank = recipe.get("lora", {}).get("rank", 0) if rank is None else rank
    return merge(FINETUNING, LORA if str(rank) != "0" else {}, recipe)


def merge(*layers: Tables) -> Tables:
    """Tables laid over each other; later ones win, key by key."""
    result: Tables = {}
    for layer in layers:
        for name, value in layer.items():
            have = result.get(name)
            if isinstance(have, dict) and isinstance(value, dict):
                value = merge(have, value)
            result[name] = value
    return result


def names(tables: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of everything in tables: `optim.lr`."""
    found = []
    for name, value in tables.items():
        found += names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [prefix + name]
    return found


def pick(tables: Mapping[str, Any], given: Iterable[str]) -> Tables:
    """The part of tables whose dotted names are `given`."""
    result: Tables = {}
    for name in given:
        *path, last = name.split(".")
        source, target = tables, result
        for part in path:
            source, target = source.get(part, {}), target.setdefault(part, {})
        if last in source:
            target[last] = source[last]
    return result


def layer(tables: Mapping[str, Any], source: str, verb: str = "") -> Dict:
    """A cyclopts source that lays tables under the flags of a verb; `source` is named in messages."""
    # Under the verb's own key, or cyclopts drops keys that are also names of verbs: tokenizer, prepare.
    for word in reversed(verb.split()):
        tables = {word: tables}
    under = Dict(dict(tables))
    under.source = source
    return under


def one_line(error: CycloptsError) -> str:
    """cyclopts' error as one line that names the option and, for other tools' names, ours. Shortens long values."""
    if isinstance(error, UnknownOptionError) and (answer := _answer(error)):
        return answer
    if isinstance(error, UnknownCommandError) and not error.command_chain:
        word = (error.unused_tokens or [""])[0]
        if here := COMMANDS.get(word.lower()):
            return f"Unknown command: {word}. gptworks calls it {here}."
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected argument {' '.join(error.unused_tokens or ())!r:.200}; is an option missing before it?"
    text = re.sub(TABLED, r"[\1] \2", str(error))
    argument = getattr(error, "argument", None)
    if argument is not None and argument.name.lstrip("-") not in text and "[" not in text:
        text = f"{argument.name}: {text}"
    return " ".join(word if len(word) < LONG else f"{word[:100]}..." for word in text.split())[:2000]


def _answer(error: UnknownOptionError) -> str:
    """Our names for all of other tools' options on a command line; empty if the first is unknown to us."""
    have = {name for argument in error.argument_collection for name in argument.names}
    first = (error.token.keyword or error.token.value or "").partition("=")[0]
    words = [first]
    if error.token.source == "cli":
        typed = [word.partition("=")[0] for word in error.root_input_tokens or () if word.startswith("--")]
        known = {name.replace("_", "-") for name in have}
        words += [word for word in typed if word != first and word.replace("_", "-") not in known]
    known_as = {_shown(word): here for word in words if (here := _here(word, have))}
    if not _here(first, have):
        return ""
    if len(known_as) == 1:
        (word, here), *_ = known_as.items()
        return f"Unknown option: {word}. {here[0].upper()}{here[1:]}."
    return "Unknown options: " + "; ".join(f"{word}: {here}" for word, here in known_as.items()) + "."


def _shown(word: str) -> str:
    """`[train] lr` for cyclopts' `[train][lr]`; `lr` for a key outside of tables."""
    return re.sub(TABLED, r"[\1] \2", word) if "][" in word else word.strip("[]")


def _here(word: str, have: set[str]) -> str:
    """Our name for an option of another tool or of version 0.1, in words; empty if the command has no such option."""
    name = _plain(word)
    names = [here for here in ELSEWHERE.get(name, "").split() if here in have]
    if name == "dropout" and "--model.dropout" in names:  # pretraining has no train.dropout
        names = ["--model.dropout"]
    if names:
        return f"use {' or '.join(names)}" + (f" ({UNITS[name]})" if name in UNITS else "")
    if renamed := renames.new_flag(word, have):
        return f"it is now {renamed}"
    return f"not needed: {NEEDLESS[name]}" if name in NEEDLESS else ""


def _plain(word: str) -> str:
    """An option's name without its table: `block-size` of `--model.block_size`, or of `[model][block_size]`."""
    return re.split(r"[.\[]", word.strip("-]"))[-1].replace("_", "-")


def as_tables(value: Any) -> Any:
    """A recipe as TOML has it: nothing for None, text for paths, lists for tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: as_tables(item) for name, item in fields.items() if item is not None}
    if isinstance(value, tuple):
        return [as_tables(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def dumps(recipe: Recipe, without: frozenset[str] = frozenset()) -> str:
    """A recipe as TOML text that `load` reads back to an equal one, except for the tables in `without`."""
    return tomli_w.dumps({name: value for name, value in as_tables(recipe).items() if name not in without})
