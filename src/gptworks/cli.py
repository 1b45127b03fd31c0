"""`gptworks VERB ...`: the table of verbs, and how flags are laid over a recipe file.

A verb is a function in commands/, imported when it is asked for (so `--help` is instant); its parameters and
the dataclasses of recipe.py are its flags. A TOML file given first fills them in, and flags beat it. A
UserError, or anything cyclopts refuses, becomes one line on stderr and exit status 2.
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

from cyclopts import App, CycloptsError, Group, Parameter

from gptworks import __version__
from gptworks.errors import ConfigError, UserError
from gptworks.recipefile import layer, one_line, tables

FLAT = {
    "prepare": "prepare",
    "tokenizer train": "bpe",
    "finetune classify": "classify",
    "finetune instruct": "instruct",
    "evaluate": "evaluate",
    "glue": "glue",
}
"""Verbs whose own table is written without its prefix: `prepare --sources`, not `prepare --prepare.sources`."""

MAKES = {"prepare": "data", "tokenizer train": "tokenizer"}
"""The recipe field that names what a verb makes, its --out. (A recipe's own `out` is its run.)"""

SHARED = {"pretrain", "finetune", "glue"}
"""Verbs whose work torchrun's processes share, or that have a word to say to it; of others the first does all."""

ADAPTING = {"optim": {"lr": 5e-4}}
"""Of fine-tuning with adapters, which start at nothing, where nobody says otherwise."""

LIFE, CARE = Group("The life of a model", sort_key=1), Group("Looking around", sort_key=2)


def build() -> App:
    """The command line. Verbs are named here and imported when used."""
    app = App(
        name="gptworks",
        version=__version__,
        help="A GPT's whole life on the hardware you have: text, tokenizer, pretraining, generation.\n\n"
        "Every verb takes flags, and most a recipe: `gptworks pretrain recipes/tiny-shakespeare.toml --optim.lr 1e-3`.",
        default_parameter=Parameter(consume_multiple=True, allow_repeating=True),
        help_format="plaintext",  # Markdown's reader takes a tenth of a second to import; verbs have texts that need it
        result_action="return_value",
    )
    order = itertools.count()
    tokenizer = App(name="tokenizer", help="Train a tokenizer.", group=LIFE, sort_key=1)

    def verb(to: App, where: str, summary: str, group: Group = LIFE) -> None:
        module, _, name = where.partition(":")
        path = f"gptworks.commands.{module}:{name}"
        name = name.replace("_", "-")
        to.command(path, name=name, help=summary, group=group, sort_key=next(order), help_format="markdown")

    verb(app, "quickstart:quickstart", "Train a small GPT on this Python's own source, in three minutes.")
    app.command(tokenizer)
    verb(tokenizer, "tokenizer:train", "Train a byte-level BPE tokenizer on your texts.")
    verb(app, "prepare:prepare", "Turn texts into a Dataset: tokens ready to train on.")
    verb(
        app, "pretrain:pretrain", "Train a GPT on a Dataset. Interrupt it anywhere; --resume goes on exactly."
    )
    finetune = App(
        name="finetune", help="Teach a GPT a task, from examples.", group=LIFE, sort_key=next(order)
    )
    app.command(finetune)
    verb(finetune, "finetune:classify", "Teach a GPT to name a text's class, from examples.")
    verb(finetune, "instruct:instruct", "Teach a GPT to answer, from instructions or conversations.")
    verb(app, "classify:classify", "Say the class of texts, with a fine-tuned classifier.")
    verb(app, "merge:merge", "Fold a LoRA adapter into the weights.")
    verb(app, "evaluate:evaluate", "Measure models: perplexity, multiple choice, lm-evaluation-harness.")
    nine = "Fine-tune models on GLUE's nine tasks; submit and draw what came out."
    app.command("gptworks.commands.glue:app", name="glue", help=nine, group=LIFE, sort_key=next(order))
    verb(app, "generate:generate", "Continue a prompt with a trained model.")
    verb(app, "chat:chat", "Talk to a model in the terminal.")
    verb(app, "serve:serve", "Serve models: an OpenAI-compatible API, and a page to try them out.")
    verb(app, "export:export", "Write a model for llama.cpp and Ollama, ONNX Runtime, or transformers.")
    verb(app, "push:push", "Publish a model on the Hugging Face Hub, with a card of what is known of it.")
    verb(app, "judge:judge", "Let another model score a run's answers, or compare them with others.", CARE)
    verb(
        app,
        "plan:plan",
        "Say whether a recipe fits and how long it takes; or choose a model for --hours.",
        CARE,
    )
    verb(app, "doctor:doctor", "Say what this machine has, what runs fast on it, and what would help.", CARE)
    verb(app, "report:report", "Show what runs did on one page: curves, scores, samples, recipe.", CARE)
    verb(app, "import_config:import_config", "Turn algrshn/gpt-pytorch's config.txt into a recipe.", CARE)
    verb(app, "inspect:inspect", "Say what a Dataset, Run, Checkpoint or MODEL is.", CARE)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, or 2 when the person must change something."""
    argv = sys.argv[1:] if argv is None else argv
    share_cores()
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper) and out in (sys.__stdout__, sys.__stderr__):
            out.reconfigure(errors="replace")  # a sample may hold what this console cannot show
    app = build()
    try:
        _run(app, argv)
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
    tokens, file, app.config = _layers(app, argv)
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if (late := bound.arguments.get("recipe", file)) != file:
        raise ConfigError(
            f"{late} comes too late: a recipe stands before all flags, `gptworks VERB {late} --...`"
        )
    # RANK alone says little: a cluster may set it for a whole machine, and a person types commands there as well.
    first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"
    if first or not tokens or tokens[0] in SHARED:
        command(*bound.args, **bound.kwargs)


def share_cores() -> None:
    """Let threads that wait for each other sleep soon, before torch starts them.

    They spin by default: beside any other busy program, training on a CPU is then 5 times slower than need be, and 20
    times at worst. A person's own setting counts.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "10000"
        )  # GNU's: first as long as Python is between two products


def _refuse(message: str, status: int = 2) -> int:
    print(f"gptworks: {message}", file=sys.stderr)
    return status


def _system(error: OSError) -> str:
    """What the operating system refused, and of which file."""
    words = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    return f"{words}; free some space and go on with --resume" if error.errno == errno.ENOSPC else words


def _layers(app: App, argv: list[str]) -> tuple[list[str], Path | None, list[Any]]:
    """The command line without prefixes a verb does not need, the recipe on it, and what to lay under its flags."""
    if argv[:1] == ["finetune"] and len(argv) > 1 and argv[1].endswith(".toml"):
        argv = ["finetune", _task(Path(argv[1])), *argv[1:]]
    words = []
    for word in argv[:2]:
        if word.startswith("-"):
            break
        words.append(word)
    takers = (*FLAT, "pretrain", "plan")
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in takers), None)
    if name is None or (name == "glue" and len(words) > 1 and not words[1].endswith(".toml")):
        return argv, None, []  # `glue submit` and such take no recipe
    head, rest = argv[: name.count(" ") + 1], argv[name.count(" ") + 1 :]
    if name in FLAT:
        rest = [re.sub(rf"^--{FLAT[name]}\.", "--", word) for word in rest]
    file = Path(rest[0]) if rest and not rest[0].startswith("-") else None
    if name == "evaluate" and file is not None and file.suffix != ".toml":  # a MODEL
        file = None
    under = _recipe_of_run(rest) if file is None and "--resume" in rest else file
    given = _without_beaten(tables(under), rest) if under else {}
    if name == "glue":
        given = _without_beaten_tasks(given, rest)
    flags = {word.partition("=")[0] for word in rest}
    if name == "glue" and under and ("--checkpoints" in flags or not {"--model", "--run"} & flags):
        given = _with_run(given)
    layers = [layer(_fit(name, given, app), under, name)] if under else []
    adapts = any(word.startswith("--lora.") for word in rest) or given.get("lora", {}).get("rank", 0)
    if name.startswith("finetune") and adapts:
        layers.append(layer(ADAPTING, Path("defaults"), name))
    return [*head, *rest], file, layers


def _with_run(given: dict[str, Any]) -> dict[str, Any]:
    """`glue RECIPE` measures the run that the same recipe pretrains, beside the models it names.

    `--model` takes the place of both, unless `--checkpoints` says which of the run's are meant.
    """
    return given | {"glue": {"run": given["out"]} | given.get("glue", {})} if "out" in given else given


def _without_beaten(given: dict[str, Any], rest: list[str]) -> dict[str, Any]:
    """The file without how long to train, where a flag says it in the other way: a flag beats the file."""
    flags = {word.partition("=")[0].replace("_", "-") for word in rest}
    for flag, beaten in (("--train.max-steps", "epochs"), ("--train.epochs", "max_steps")):
        if flag in flags and beaten in given.get("train", {}):
            given = given | {"train": {key: item for key, item in given["train"].items() if key != beaten}}
    return given


def _without_beaten_tasks(given: dict[str, Any], rest: list[str]) -> dict[str, Any]:
    """The tables of GLUE's tasks without what a flag says of all tasks: a flag beats the file."""
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in rest}
    tasks = {
        name: {key: value for key, value in item.items() if key not in flags}
        for name, item in given.get("glue", {}).items()
        if isinstance(item, dict)
    }
    return given | {"glue": given["glue"] | tasks} if tasks else given


def _task(file: Path) -> str:
    """`finetune RECIPE` does what the recipe has a table for."""
    found = [task for task in ("classify", "instruct") if task in tables(file)]
    if len(found) != 1:
        have = "the tables [classify] and" if found else "no table [classify] or"
        raise ConfigError(f"{file} has {have} [instruct], so what to fine-tune for is not said")
    return found[0]


def _recipe_of_run(rest: list[str]) -> Path | None:
    """`--out RUN --resume` alone goes on with the recipe the run began with."""
    out = next((rest[i + 1] for i, word in enumerate(rest[:-1]) if word == "--out"), None)
    out = out or next((word.split("=", 1)[1] for word in rest if word.startswith("--out=")), None)
    saved = Path(out) / "recipe.toml" if out else None
    return saved if saved and saved.is_file() else None


def _fit(name: str, given: dict[str, Any], app: App) -> dict[str, Any]:
    """The tables as this verb's parameters: its own table flattened, renamed fields renamed, others left out."""
    command = app
    for word in name.split():
        command = command[word]
    wanted = inspect.signature(command.default_command).parameters  # type: ignore[arg-type]
    if name.startswith("finetune"):  # has no [model] table; its --model is the recipe's base
        given = {key: value for key, value in given.items() if key != "model"}
        given |= {"model": given["base"]} if "base" in given else {}
    if name in {"evaluate", "plan"}:  # their --out is a file, a recipe's is a run
        given = {key: value for key, value in given.items() if key != "out"}
    fitted = {key: value for key, value in given.items() if key in wanted}
    if name in MAKES:
        made = given.get(MAKES[name], "")
        fitted.pop(MAKES[name], None)
        fitted["out"] = made if name == "prepare" or "/" in made else ""  # `gpt2` names no folder of ours
        fitted = {key: value for key, value in fitted.items() if value != ""}
    if name in FLAT:
        fitted |= fitted.pop(FLAT[name], {})
    return fitted
