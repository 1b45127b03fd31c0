"""Recipes as TOML files: read with every key checked against recipe.py, written as a run keeps them."""

import dataclasses
import re
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any

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

from gptworks.errors import ConfigError
from gptworks.recipe import Recipe

ELSEWHERE = {
    "accumulation-steps": "--batch --train.batch-tokens",
    "always-save-checkpoint": "--save.every",
    "base": "--model",
    "batch-size": "--batch --train.batch-tokens --train.micro-batch",
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
    "grad-accum": "--batch --train.batch-tokens",
    "grad-accum-steps": "--batch --train.batch-tokens",
    "grad-clip": "--optim.clip",
    "gradient-accumulation-steps": "--batch --train.batch-tokens",
    "init-from": "--base --model --resume",
    "label-column": "--label",
    "learning-rate": "--optim.lr",
    "log-interval": "--log.every",
    "logging-steps": "--log.every",
    "lr": "--optim.lr",
    "lr-decay-iters": "--optim.decay-steps",
    "max-grad-norm": "--optim.clip",
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
    "per-device-train-batch-size": "--batch --train.batch-tokens --train.micro-batch",
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
"""What options are called in nanoGPT, transformers and others, and here; a command has some of these."""

UNITS = {
    "compile": "auto, on or off",
    "eval-iters": "in tokens, not batches",
    "min-lr": "a fraction of the peak, not a rate",
}
"""In what some of these differ from theirs."""

NEEDLESS = {
    "backend": "processes on GPUs talk by NCCL, on CPUs by gloo",
    "device": "devices are looked at; CUDA_VISIBLE_DEVICES hides GPUs",
    "eval-only": "`gptworks evaluate MODEL` measures without training",
    "vocab-size": "a vocabulary is its tokenizer's: `gptworks tokenizer train --vocab-size`",
}
"""Options of theirs that have no name here, and why."""

COMMANDS = {
    "eval": "evaluate",
    "inference": "generate",
    "preprocess": "prepare",
    "sample": "generate",
    "sft": "finetune instruct",
    "train": "pretrain",
}
"""What commands are called elsewhere, and here."""

FOREIGN = {
    ".py": "write its settings as flags or in a recipe; gptworks pretrain --help lists them",
    ".txt": "gptworks import-config makes one of algrshn/gpt-pytorch's config.txt, and data are named by flags",
}
"""Files that tell other tools what to do, and what to do with them here."""

LONG = 400
"""Letters of a word that is not echoed as a whole."""

TABLED = r"\[(\w+)\]\[(\w+)\]"
"""A key in a file's table, as cyclopts has it."""

KINDS = {field.name: field.type for field in dataclasses.fields(Recipe)}


def load(file: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, an impossible value: one line that names the
            key, the file and the nearest valid key.
    """
    if file.suffix in FOREIGN:
        raise ConfigError(f"{file} is not a recipe: recipes are TOML; {FOREIGN[file.suffix]}")
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no recipe {file}") from None
    except IsADirectoryError:
        have = (file / "recipe.toml").is_file()
        way = f"its recipe is {file / 'recipe.toml'}" if have else f"texts are given by --sources {file}"
        raise ConfigError(f"{file} is a folder, and a recipe a TOML file; {way}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not a recipe: {error!s:.200}") from None
    _check_texts(Recipe, given, file)
    for name, value in given.items():
        if name in KINDS and dataclasses.is_dataclass(KINDS[name]) != isinstance(value, dict):
            raise ConfigError(
                f"{file}: {name} is {'no table' if isinstance(value, dict) else f'a table: write [{name}]'}"
            )

    def take(*, recipe: Annotated[Recipe, Parameter(name="*")] = Recipe()) -> Recipe:  # noqa: B008 - frozen
        return recipe

    reader = App(default_command=take, config=layer(given, file), result_action="return_value")
    try:
        return reader([], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        words = one_line(error)
        raise ConfigError(words if str(file) in words else f"{file}: {words}") from None
    except RecursionError:
        raise ConfigError(f"{file} is not a recipe: its tables lie too deep in each other") from None


def _check_texts(cls: Any, given: dict[str, Any], file: Path, prefix: str = "") -> None:
    """Refuse a number where text is due: flags are all text, so cyclopts takes `out = 3` for "3"."""
    hints = typing.get_type_hints(cls)
    for name, value in given.items():
        kinds = typing.get_args(hints.get(name)) or (hints.get(name),)
        if isinstance(value, dict) and dataclasses.is_dataclass(hints.get(name)):
            _check_texts(hints[name], value, file, f"{name}.")
        elif (
            isinstance(value, int | float)
            and (str in kinds or Path in kinds)
            and typing.get_origin(hints[name]) is not tuple
        ):
            raise ConfigError(f"{file}: {prefix}{name} = {value} must be text, in quotes")


def tables(file: Path) -> dict[str, Any]:
    """What a file says, and only that, after `load` has found nothing wrong with it."""
    load(file)
    return tomllib.loads(file.read_text(encoding="utf-8"))


def layer(given: dict[str, Any], file: Path, verb: str = "") -> Dict:
    """Tables to lay under the flags of a verb; `file` is named in messages."""
    # Under the verb's own key, or cyclopts drops keys that are also names of verbs: tokenizer, prepare.
    for word in reversed(verb.split()):
        given = {word: given}
    under = Dict(given)
    under.source = str(file)
    return under


def one_line(error: CycloptsError) -> str:
    """cyclopts' refusal as one line that names the option; and what it is called here, if it is known elsewhere.

    Of a long value it has no more than the beginning.
    """
    if isinstance(error, UnknownOptionError) and (answer := _answer(error)):
        return answer
    if isinstance(error, UnknownCommandError) and not error.command_chain:
        word = (error.unused_tokens or [""])[0]
        if here := COMMANDS.get(word.lower()):
            return f"Unknown command: {word}. Here it is {here}."
    if isinstance(error, UnusedCliTokensError):
        return f"nothing here takes {' '.join(error.unused_tokens or ())!r:.200}; is an option missing before it?"
    text = re.sub(TABLED, r"[\1] \2", str(error))
    argument = getattr(error, "argument", None)
    if argument is not None and argument.name.lstrip("-") not in text and "[" not in text:
        text = f"{argument.name}: {text}"
    return " ".join(word if len(word) < LONG else f"{word[:100]}..." for word in text.split())[:2000]


def _answer(error: UnknownOptionError) -> str:
    """What other tools' options are called here, of all on a command line at once; nothing if the first is no such."""
    have = {name for argument in error.argument_collection for name in argument.names}
    first = (error.token.keyword or error.token.value or "").partition("=")[0]
    words = [first]
    if error.token.source == "cli":
        typed = [word.partition("=")[0] for word in error.root_input_tokens or () if word.startswith("--")]
        known = {name.replace("_", "-") for name in have}
        words += [word for word in typed if word != first and word.replace("_", "-") not in known]
    said = {_shown(word): here for word in words if (here := _here(_plain(word), have))}
    if not _here(_plain(first), have):
        return ""
    if len(said) == 1:
        (word, here), *_ = said.items()
        return f"Unknown option: {word}. {here[0].upper()}{here[1:]}."
    return "Unknown options: " + "; ".join(f"{word}: {here}" for word, here in said.items()) + "."


def _shown(word: str) -> str:
    """`[train] lr` for a key of a file's table, which cyclopts has as `[train][lr]`; a key in none is `lr`."""
    return re.sub(TABLED, r"[\1] \2", word) if "][" in word else word.strip("[]")


def _here(name: str, have: set[str]) -> str:
    """What another tool's option is here, in words; nothing if it is not known, or a command has none such."""
    names = [here for here in ELSEWHERE.get(name, "").split() if here in have]
    if name == "dropout" and "--model.dropout" in names:  # pretraining has no train.dropout
        names = ["--model.dropout"]
    if names:
        return f"here it is {' or '.join(names)}" + (f" ({UNITS[name]})" if name in UNITS else "")
    return f"none is needed here: {NEEDLESS[name]}" if name in NEEDLESS else ""


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
    """A recipe as TOML text that `load` reads back to an equal one, but for the tables it is written `without`."""
    return tomli_w.dumps({name: value for name, value in as_tables(recipe).items() if name not in without})
