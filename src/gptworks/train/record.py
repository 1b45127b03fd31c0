"""What a run's folder says of how it was made, and whether a run may go on with what is asked of it now."""

import dataclasses
import json
import platform
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tomli_w
import torch
from torch import nn

from gptworks import __version__, runs
from gptworks.errors import CheckpointError, ConfigError
from gptworks.model.config import ONLY
from gptworks.recipe import ModelOptions, Recipe
from gptworks.recipefile import as_tables
from gptworks.train.pretraining import Pretraining
from gptworks.world import World, describe, memory_total, processor

BEFORE_AND_AFTER = frozenset({"prepare", "bpe", "evaluate", "perplexity", "glue"})
"""Tables that are not part of any run."""

PRETRAINING_IGNORES = BEFORE_AND_AFTER | {"lora", "classify", "instruct"}
FINETUNING_IGNORES = BEFORE_AND_AFTER | {"model", "sample", "instruct"}
INSTRUCTING_IGNORES = BEFORE_AND_AFTER | {"model", "sample", "classify"}
"""Tables that are not part of a run that learns language, to classify, to answer."""

FREE_TABLES = {"out", "data", "eval", "save", "sample", "log"}
FREE = {"train.max_steps", "train.epochs", "train.max_hours", "train.micro_batch", "train.compile"}
FREE |= {
    "train.patience",
    "train.rollbacks",
    "train.parallel",
    "train.reshard",
    "train.gather_in",
    "train.wait_minutes",
    "train.checkpoint_activations",
    "classify.tries",
    "classify.keep_by",
}
"""What may be changed when a run goes on. Anything else would make its past and its future two different runs."""

LENGTH = {"train.max_steps", "train.epochs"}
"""What says how long a run is."""

FIXED_TABLES = {"model", "lora", "base", "tokenizer"}
FIXED = {"optim.kind"}
LOOSE = {"model.dropout", "model.dropout_at", "lora.dropout"}
"""What cannot be changed even by who wants two different runs: a checkpoint would not mean what it says."""


Change = tuple[str, Any, Any]
"""An option's dotted name, and its values before and now."""


class Material(Protocol):
    """What a run is trained on."""

    @property
    def path(self) -> Path: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer_fingerprint(self) -> str: ...


def resolved(recipe: Recipe, work: Pretraining) -> Recipe:
    """The recipe with what was left open filled in: the model's shape, the micro-batch, the number format."""
    config = work.config
    foreign = {name for family, names in ONLY.items() if family != config.family for name in names}
    names = (
        {field.name for field in dataclasses.fields(ModelOptions)} - foreign - {"preset", "frozen_embedding"}
    )
    shape = {name: getattr(config, name) for name in names}
    if shape.get("bias") == ():
        shape["bias"] = ("none",)
    return dataclasses.replace(
        recipe,
        model=ModelOptions(**shape, frozen_embedding=recipe.model.frozen_embedding),
        train=dataclasses.replace(
            recipe.train, micro_batch=work.plan.micro_batch, precision=work.plan.precision.name
        ),
    )


def write(
    recipe: Recipe, dataset: Material, world: World, ignores: frozenset[str], peak: float | None = None
) -> None:
    """recipe.toml and environment.json. Of the newest start. `peak` is what its MFU is divided by, in FLOP/s."""
    assert recipe.out is not None
    recipe.out.mkdir(parents=True, exist_ok=True)
    tables = as_tables(recipe)
    used = {name: value for name, value in tables.items() if name not in ignores}
    runs.write_text(recipe.out / "recipe.toml", tomli_w.dumps(used))
    learned = {
        "dataset": str(dataset.path),
        "dataset_fingerprint": dataset.fingerprint,
        "tokenizer_fingerprint": dataset.tokenizer_fingerprint,
    }
    fastest = {} if peak is None else {"peak_flops": peak, "peak_precision": recipe.train.precision}
    runs.write_json(recipe.out / "environment.json", environment(world) | learned | fastest)


def peak(run: Path, precision: str, world: World) -> float | None:
    """The FLOP/s that MFU was divided by when a run began; None if it was not on such a machine, or is not known.

    Measured anew at each start it would differ by a third, as a busy machine does, and so would MFU.
    """
    try:
        told = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = environment(world) | {"peak_precision": precision}
    if not isinstance(told, dict) or not isinstance(told.get("peak_flops"), float):
        return None
    names = ("processor", "device", "processes", "peak_precision")
    return told["peak_flops"] if all(told.get(name) == now[name] for name in names) else None


def environment(world: World) -> dict[str, Any]:
    """What work is done with: versions and machine."""
    return {
        "gptworks": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "numpy": np.__version__,
        "processor": processor(),
        "memory": memory_total(torch.device("cpu")),
        "device": describe(world.device),
        "processes": world.size,
        "threads": torch.get_num_threads(),
    }


def check_alike(recipe: Recipe, dataset: Material, model: nn.Module, world: World) -> None:
    """Before the first step of several processes: all must do the same work, on the same data, in the same versions.

    Raises:
        ConfigError: naming the first process that differs from the main one, and in what.
    """
    if world.size == 1:
        return
    mine = {
        "gptworks": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "device": world.device.type,
        "the Dataset's fingerprint": dataset.fingerprint,
        "the tokenizer's fingerprint": dataset.tokenizer_fingerprint,
        "the first weights' checksum": _checksum(model),
    } | {name: now for name, _, now in differences({}, as_tables(recipe))}
    everyone = world.gather((socket.gethostname(), mine))
    host, wanted = everyone[0]
    for rank, (where, theirs) in enumerate(everyone):
        names = [name for name in wanted.keys() | theirs.keys() if wanted.get(name) != theirs.get(name)]
        if names:
            told = "; ".join(
                f"{name} is {theirs.get(name)}, not {wanted.get(name)}" for name in sorted(names)[:3]
            )
            raise ConfigError(
                f"process {rank} on {where} is not like process 0 on {host}: {told}. Give all machines the same "
                "installation, recipe and files"
            )


def _checksum(model: nn.Module) -> int:
    """Of all weights, bit by bit; the order they are added in does not matter."""
    return sum(
        (place + 1) * int(param.detach().contiguous().view(-1).view(torch.int16).sum(dtype=torch.int64))
        for place, param in enumerate(model.parameters())
    )


def adopt(recipe: Recipe) -> Recipe:
    """What `auto` settled to when the run in `recipe.out` began stays so when it goes on: same cuts, same bits."""
    assert recipe.out is not None
    train = _saved(recipe.out).get("train", {}) if runs.checkpoints(recipe.out) else {}
    kept = {}
    if recipe.train.micro_batch == "auto" and isinstance(train.get("micro_batch"), int):
        kept["micro_batch"] = train["micro_batch"]
    if recipe.train.precision == "auto" and "precision" in train:
        kept["precision"] = train["precision"]
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **kept))


def check_same(
    recipe: Recipe,
    dataset: Material,
    say: Callable[[str], None],
    ignores: frozenset[str],
    *,
    accept: bool = False,
) -> list[Change]:
    """Compare a resolved recipe with the one the run in `recipe.out` began with; returns and says what has changed.

    Changes that make it another run are refused, but if they can be made, and `accept` says that they are meant.

    Raises:
        ConfigError: what is asked for now differs in something that would make it another run.
        CheckpointError: the Dataset is another one.
    """
    assert recipe.out is not None
    if not (before := _saved(recipe.out)):
        return []
    found = [change for change in differences(before, as_tables(recipe)) if _table(change) not in ignores]
    grave = [change for change in found if _table(change) not in FREE_TABLES and change[0] not in FREE]
    never = [change for change in grave if _table(change) in FIXED_TABLES or change[0] in FIXED]
    never = [change for change in never if change[0] not in LOOSE]
    if never or (grave and not accept):
        told = "; ".join(f"{name} = {was}, not {now}" for name, was, now in never or grave)
        way_out = "" if never else ", or give --accept-changes if you want a run of two parts"
        raise ConfigError(
            f"{recipe.out} was begun with {told}: leave it so, or start anew with another --out{way_out}"
        )
    _same_dataset(recipe.out, dataset, say if accept else None)
    shown = [change for change in found if _table(change) not in {"out", "data"}]
    for name, was, now in shown:
        say(f"{name} was {was}, is now {now}{_stretched(recipe) if name in LENGTH else ''}")
    return shown


def _stretched(recipe: Recipe) -> str:
    """What another length of the run does to the steps that are still to come."""
    if recipe.optim.schedule == "constant" or recipe.optim.decay_steps is not None:
        return ""
    return ": the learning rate follows the new length from here on, so this is not the run it would be from the start"


def check_length(run: Path, done: int, max_steps: int) -> None:
    """Before anything is written: a run cannot be made shorter than it is.

    Raises:
        ConfigError: it has more steps than are asked for.
    """
    if done > max_steps:
        raise ConfigError(
            f"{run} is at step {done:,} already, and {max_steps:,} are asked for: leave out --train.max-steps or "
            "--train.epochs, or give more; a model saved before is RUN@step-N"
        )


def _table(change: Change) -> str:
    return change[0].partition(".")[0]


def keep_changes(run: Path, step: int, changes: list[Change]) -> None:
    """Add to changes.jsonl what has changed at a step: recipe.toml tells only of the newest start."""
    if changes:
        rows = ({"step": step, "option": name, "was": was, "now": now} for name, was, now in changes)
        runs.add_rows(run / "changes.jsonl", rows)


def _saved(run: Path) -> dict[str, Any]:
    file = run / "recipe.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged ({error!s:.80}), so what this run was begun with is not known: put it back, or give "
            "another --out"
        ) from None


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[Change]:
    """(dotted name, before, now) of every option that differs between two recipes' tables."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        was, new = before.get(key), now.get(key)
        if isinstance(was, dict) or isinstance(new, dict):
            found += differences(was or {}, new or {}, f"{prefix}{key}.")
        elif was != new:
            found.append((prefix + key, was, new))
    return found


def _same_dataset(run: Path, dataset: Material, accept: Callable[[str], None] | None) -> None:
    """Refuse another Dataset; or with `accept` say so, if it is of the same tokenizer."""
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        before = environment["dataset_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    same_tokenizer = environment.get("tokenizer_fingerprint") == dataset.tokenizer_fingerprint
    if before != dataset.fingerprint and accept and same_tokenizer:
        accept(
            f"the data were {environment.get('dataset')}, are now {dataset.path}, which is another Dataset"
        )
    elif before != dataset.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {environment.get('dataset')} (fingerprint {before[:12]}), and {dataset.path} is "
            f"another Dataset ({dataset.fingerprint[:12]}): give the first one back, or start anew with another --out"
        )
