"""`gptworks VERB ...`: the table of commands, and how flags are laid over a recipe file.

A command is a function in commands/, imported when it is needed (so `--help` is instant). Its parameters and the
dataclasses of recipe.py are its flags. A recipe (a path, or the name of one that comes with gptworks) fills in what
flags leave unset. A UserError, or anything cyclopts rejects, becomes one line on stderr and exit status 2.
"""

import errno
import inspect
import io
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter

from gptworks import __version__, packaged
from gptworks.errors import ConfigError, UserError
from gptworks.recipefile import Tables, is_integer, layer, one_line, tables, under
from gptworks.threads import share_cores

OWN_TABLE = {
    "prepare": "prepare",
    "tokenizer train": "bpe",
    "finetune classify": "classify",
    "finetune instruct": "instruct",
    "evaluate": "evaluate",
    "glue": "glue",
}
"""Commands whose own table is written without its prefix: `prepare --sources`, not `prepare --prepare.sources`."""

MAKES = {"prepare": "data", "tokenizer train": "tokenizer"}
"""The recipe field that names a command's output, its --out. (A recipe's own `out` is its run.)"""

TAKE_RECIPES = (*OWN_TABLE, "pretrain", "plan")

SHARED = {"pretrain", "finetune", "glue"}
"""Commands that torchrun's processes share, or that refuse torchrun. All others run on the first process only."""

LIFE, TOOLS = Group("The life of a model", sort_key=1), Group("Tools", sort_key=2)


def build(*, for_help: bool = False) -> App:
    """The command line. Commands are named here and imported when used. Help hides the `--x.empty-y` switches."""
    app = App(
        name="gptworks",
        version=__version__,
        help="Take a GPT through its whole life on your hardware: text, tokenizer, training, evaluation, chat.\n\n"
        "Most commands take a recipe and flags: `gptworks pretrain tiny-shakespeare --optim.lr 1e-3`.",
        default_parameter=Parameter(
            consume_multiple=True, allow_repeating=True, negative_iterable=() if for_help else None
        ),
        help_format="plaintext",  # the Markdown reader takes 0.1 s to import; only commands whose help needs it use it
        result_action="return_value",
    )
    order = itertools.count()
    tokenizer = App(name="tokenizer", help="Train a tokenizer.", group=LIFE, sort_key=1)

    def verb(to: App, where: str, summary: str, group: Group = LIFE) -> None:
        module, _, name = where.partition(":")
        path = f"gptworks.commands.{module}:{name}"
        name = name.replace("_", "-")
        to.command(path, name=name, help=summary, group=group, sort_key=next(order), help_format="markdown")

    verb(
        app, "quickstart:quickstart", "Train a small GPT on this Python's own source code, in three minutes."
    )
    app.command(tokenizer)
    verb(tokenizer, "tokenizer:train", "Train a byte-level BPE tokenizer on your text.")
    verb(app, "prepare:prepare", "Turn text into a Dataset: tokens ready to train on.")
    verb(
        app,
        "pretrain:pretrain",
        "Train a GPT on a Dataset. Interrupt it anytime; --resume continues exactly.",
    )
    finetune = App(name="finetune", help="Fine-tune a GPT on examples.", group=LIFE, sort_key=next(order))
    app.command(finetune)
    verb(finetune, "finetune:classify", "Fine-tune a GPT to classify text or to predict a number.")
    verb(finetune, "instruct:instruct", "Fine-tune a GPT to follow instructions.")
    verb(app, "classify:classify", "Classify text with a fine-tuned classifier.")
    verb(app, "merge:merge", "Merge a LoRA adapter into the weights.")
    verb(app, "evaluate:evaluate", "Evaluate models: perplexity, multiple choice, lm-evaluation-harness.")
    nine = "Fine-tune models on GLUE's nine tasks; submit and plot the results."
    app.command("gptworks.commands.glue:app", name="glue", help=nine, group=LIFE, sort_key=next(order))
    verb(app, "generate:generate", "Continue a prompt with a trained model.")
    verb(app, "chat:chat", "Chat with a model in the terminal.")
    verb(app, "serve:serve", "Serve models: an OpenAI-compatible API and a playground in the browser.")
    verb(app, "export:export", "Convert a model for llama.cpp and Ollama, ONNX Runtime, or transformers.")
    verb(app, "push:push", "Publish a model on the Hugging Face Hub, with a model card.")
    listing = "List the recipes that come with gptworks, show one, or upgrade an old file."
    app.command(
        "gptworks.commands.recipes:app", name="recipes", help=listing, group=TOOLS, sort_key=next(order)
    )
    verb(app, "judge:judge", "Let another model score a run's answers, or compare them with others.", TOOLS)
    verb(app, "plan:plan", "Estimate memory and time of a recipe, or choose a model for --hours.", TOOLS)
    verb(
        app, "doctor:doctor", "Show what this machine has, what runs fast on it, and what would help.", TOOLS
    )
    verb(app, "report:report", "Show runs on one page: curves, scores, samples, recipe.", TOOLS)
    verb(app, "import_config:import_config", "Convert algrshn/gpt-pytorch's config.txt to a recipe.", TOOLS)
    verb(app, "inspect:inspect", "Describe a Dataset, Run, Checkpoint or MODEL.", TOOLS)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, or 2 if the user must change something."""
    argv = sys.argv[1:] if argv is None else argv
    share_cores()
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper) and out in (sys.__stdout__, sys.__stderr__):
            out.reconfigure(errors="replace")  # a sample may contain characters that this console cannot show
    try:
        _run(build(for_help=bool({"--help", "-h"} & set(argv))), argv)
    except CycloptsError as error:
        return _refuse(one_line(error))
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refuse(_system(error))
    except KeyboardInterrupt:
        return _refuse("interrupted", 130)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _run(app: App, argv: list[str]) -> None:
    layers = Layers()
    app.config = [layers]
    argv = _without_prefix(_with_task(argv))
    command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
    if "given" in inspect.signature(command).parameters:
        bound.arguments["given"] = layers.given
    # RANK alone says little: a cluster may set it for a whole machine, and people type commands there as well.
    first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"
    if first or not argv or argv[0] in SHARED:
        command(*bound.args, **bound.kwargs)


def _refuse(message: str, status: int = 2) -> int:
    print(f"gptworks: {message}", file=sys.stderr)
    return status


def _system(error: OSError) -> str:
    """What the operating system refused, and for which file."""
    words = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return f"{words}; free some space and continue with --resume" if error.errno == errno.ENOSPC else words


class Layers:
    """A cyclopts source that lays the recipe and the command's defaults under the flags."""

    def __init__(self) -> None:
        self.given: frozenset[str] = frozenset()
        """Dotted names of the options that the command line sets: `optim.lr`."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what the command line leaves unset.

        Raises:
            ConfigError: the recipe does not exist or is not valid.
        """
        given = {
            argument.name.lstrip("-").replace("-", "_"): argument for argument in arguments if argument.tokens
        }
        for argument in given.values():
            _check_integer(argument)
        self.given = frozenset(given)
        verb = " ".join(commands)
        if verb not in TAKE_RECIPES:
            return
        values = {name: argument.tokens[0].value for name, argument in given.items()}
        file = _recipe_file(verb, arguments, values)
        read = tables(file) if file else {}
        if verb == "glue" and file and ("checkpoints" in given or not {"model", "run"} & given.keys()):
            read = _with_run(read)
        below = _fit(verb, under(verb, read, given, values.get("lora.rank")), arguments)
        if below:
            layer(below, str(file or "the defaults"), verb)(app, commands, arguments)


def _check_integer(argument: Any) -> None:
    """Refuse 2.5 where an integer is due; cyclopts would round it."""
    for token in argument.tokens:
        if is_integer(argument.hint) and re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", token.value or ""):
            raise ConfigError(f"{argument.name} {token.value} must be a whole number")


def _recipe_file(verb: str, arguments: ArgumentCollection, values: dict[str, str]) -> Path | None:
    """The recipe that a command line names; with `--out RUN --resume` alone, the one that the run saved."""
    named = next((argument.tokens[0].value for argument in arguments if _is_recipe(argument)), None)
    if named is None and verb == "evaluate":  # its positional arguments are models
        models = next(argument for argument in arguments if argument.field_info.name == "models")
        named = next((token.value for token in models.tokens[:1] if token.value.endswith(".toml")), None)
    if named is not None:
        return packaged.find(named)
    if "resume" in values and "out" in values and (saved := Path(values["out"]) / "recipe.toml").is_file():
        return saved
    return None


def _is_recipe(argument: Any) -> bool:
    return argument.field_info.name == "recipe" and bool(argument.tokens)


def _with_run(read: Tables) -> Tables:
    """`glue RECIPE` evaluates the run that the same recipe pretrains, beside the models it names.

    `--model` replaces both, unless `--checkpoints` says which of the run's checkpoints are meant.
    """
    return read | {"glue": {"run": read["out"]} | read.get("glue", {})} if "out" in read else read


def _with_task(argv: list[str]) -> list[str]:
    """`finetune RECIPE` as `finetune TASK RECIPE`: the task is the recipe's table."""
    if (
        argv[:1] != ["finetune"]
        or len(argv) < 2
        or argv[1].startswith("-")
        or argv[1] in {"classify", "instruct"}
    ):
        return argv
    try:
        file = packaged.find(argv[1])
        read = tables(file)
    except ConfigError:
        if not argv[1].endswith(".toml"):
            return argv  # a mistyped task: cyclopts lists the valid ones
        raise
    found = [task for task in ("classify", "instruct") if task in read]
    if len(found) != 1:
        have = "both tables [classify] and" if found else "neither table [classify] nor"
        raise ConfigError(
            f"{file} has {have} [instruct]; run `gptworks finetune classify` or `instruct` with it"
        )
    return ["finetune", found[0], *argv[1:]]


def _without_prefix(argv: list[str]) -> list[str]:
    """The command line with the prefix of a command's own table removed: `prepare --prepare.sources` works as well."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv[:2]))
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in OWN_TABLE), None)
    if name is None:
        return argv
    return [re.sub(rf"^--{OWN_TABLE[name]}\.", "--", word) for word in argv]


def _fit(verb: str, read: Tables, arguments: ArgumentCollection) -> Tables:
    """Tables as a command's parameters: its own table flattened, renamed fields renamed, foreign tables removed."""
    wanted = {argument.field_info.name for argument in arguments if len(argument.keys) == 0}
    if verb.startswith("finetune"):  # it has no [model] table; its --model is the recipe's base
        read = {key: value for key, value in read.items() if key != "model"}
        read |= {"model": read["base"]} if "base" in read else {}
    if verb in {"evaluate", "plan"}:  # their --out is a file; a recipe's is a run
        read = {key: value for key, value in read.items() if key != "out"}
    own = OWN_TABLE.get(verb)
    fitted = {key: value for key, value in read.items() if key in wanted and key != own}
    if verb in MAKES:
        made = read.get(MAKES[verb], "")
        fitted.pop(MAKES[verb], None)
        fitted["out"] = (
            made if verb == "prepare" or "/" in made else ""
        )  # `gpt2` does not name a folder of ours
        fitted = {key: value for key, value in fitted.items() if value != ""}
    return fitted | read.get(own or "", {})
