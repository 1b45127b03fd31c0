"""What a run's folder records about how it was made, and whether the run may continue with the options given now."""

import dataclasses
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import tomli_w
import torch
from torch import nn

from gptworks import __version__, files
from gptworks.data.dataset import Dataset
from gptworks.devices import cpu_name, describe
from gptworks.errors import CheckpointError, ConfigError
from gptworks.host_memory import memory_total
from gptworks.model.config import FAMILY_OPTIONS, ModelConfig
from gptworks.processes import World
from gptworks.recipe import ModelOptions, Recipe
from gptworks.recipefile import Tables, as_tables
from gptworks.runs import Run
from gptworks.train.trainer import Plan

BEFORE_AND_AFTER = frozenset({"prepare", "bpe", "evaluate", "perplexity", "glue"})
"""Tables that are not part of any run."""

PRETRAINING_IGNORES = BEFORE_AND_AFTER | {"lora", "classify", "instruct"}
CLASSIFYING_IGNORES = BEFORE_AND_AFTER | {"model", "sample", "instruct"}
INSTRUCTING_IGNORES = BEFORE_AND_AFTER | {"model", "sample", "classify"}
"""Tables that are not part of a pretraining, classification or instruction run."""

FREE_TABLES = {"out", "data", "eval", "save", "sample", "log"}
FREE = {
    "train.max_steps", "train.epochs", "train.max_hours", "train.micro_batch", "train.compile", "train.max_bad_steps",
    "train.max_rollbacks", "train.parallel", "train.reshard_after_forward", "train.comm_dtype",
    "train.comm_timeout_minutes", "train.checkpoint_activations", "classify.n_seeds", "classify.best_metric",
}  # fmt: skip
"""Options that may change when a run resumes. Changing any other would turn its past and future into two runs."""

LENGTH = {"train.max_steps", "train.epochs"}
"""Options that set the length of a run."""

FIXED_TABLES = {"model", "lora", "base", "tokenizer"}
FIXED = {"optim.name"}
LOOSE = {"model.dropout", "model.dropout_at", "lora.dropout"}
"""FIXED ones may not change even with --accept-changes: a checkpoint would no longer mean what it says."""

Change = tuple[str, Any, Any]
"""An option's dotted name, and its value before and now."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The data that a run is trained on."""

    path: Path
    fingerprint: str
    tokenizer_fingerprint: str

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """A Dataset's."""
        return cls(dataset.path, dataset.fingerprint, dataset.tokenizer_fingerprint)


def resolved(recipe: Recipe, config: ModelConfig, plan: Plan) -> Recipe:
    """The recipe of a pretraining run with the model's shape, the micro-batch and the precision filled in."""
    foreign = {name for family, names in FAMILY_OPTIONS.items() if family != config.family for name in names}
    names = {field.name for field in dataclasses.fields(ModelOptions)} - foreign
    shape = {name: getattr(config, name) for name in names - {"preset", "frozen_embedding"}}
    if shape.get("bias") == ():
        shape["bias"] = ("none",)
    model = ModelOptions(**shape, frozen_embedding=recipe.model.frozen_embedding)
    return dataclasses.replace(with_plan(recipe, plan), model=model)


def with_plan(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with the micro-batch and the precision filled in."""
    settled = {"micro_batch": plan.micro_batch, "precision": plan.precision.name}
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **settled))


def write(
    recipe: Recipe,
    data: Provenance,
    world: World,
    ignores: frozenset[str],
    *,
    max_steps: int | None = None,
    peak: float | None = None,
) -> None:
    """Write recipe.toml and environment.json, at every start. `peak`: the FLOP/s that MFU is divided by."""
    run = recipe.run
    run.path.mkdir(parents=True, exist_ok=True)
    used = {name: value for name, value in as_tables(recipe).items() if name not in ignores}
    files.write_text(run / "recipe.toml", tomli_w.dumps(used))
    facts = environment(world) | {
        "dataset": str(data.path),
        "dataset_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer_fingerprint,
    }
    if max_steps is not None:
        facts["max_steps"] = max_steps
    if peak is not None:
        facts |= {"peak_flops": peak, "peak_precision": recipe.train.precision}
    files.write_json(run / "environment.json", facts)


def peak(run: Run, precision: str, world: World) -> float | None:
    """The FLOP/s that MFU was divided by when the run started; None if unknown, or if it was on another machine.

    Measuring again at each start would change it by up to a third on a busy machine, and MFU with it.
    """
    facts = run.environment()
    now = environment(world) | {"peak_precision": precision}
    names = ("processor", "device", "processes", "peak_precision")
    same = all(facts.get(name) == now[name] for name in names)
    return facts["peak_flops"] if same and isinstance(facts.get("peak_flops"), float) else None


def environment(world: World) -> dict[str, Any]:
    """Versions and machine."""
    return {
        "gptworks": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "numpy": np.__version__,
        "processor": cpu_name(),
        "memory": memory_total(torch.device("cpu")),
        "device": describe(world.device),
        "processes": world.size,
        "threads": torch.get_num_threads(),
    }


def check_alike(recipe: Recipe, data: Provenance, model: nn.Module, world: World) -> None:
    """Check before the first step that all processes do the same work, on the same data, with the same versions.

    Raises:
        ConfigError: names the first process that differs from the main one, and how.
    """
    if world.size == 1:
        return
    mine = {
        "gptworks": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "device": world.device.type,
        "the Dataset's fingerprint": data.fingerprint,
        "the tokenizer's fingerprint": data.tokenizer_fingerprint,
        "the checksum of the initial weights": _checksum(model),
    } | {name: now for name, _, now in differences({}, as_tables(recipe))}
    everyone = world.gather((socket.gethostname(), mine))
    main_host, wanted = everyone[0]
    for rank, (host, got) in enumerate(everyone):
        names = [name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)]
        if names:
            shown = "; ".join(
                f"{name} is {got.get(name)}, not {wanted.get(name)}" for name in sorted(names)[:3]
            )
            raise ConfigError(
                f"process {rank} on {host} differs from process 0 on {main_host}: {shown}. Give all machines the "
                "same installation, recipe and files"
            )


def _checksum(model: nn.Module) -> int:
    """A checksum of all weights, bit by bit; independent of summation order."""
    return sum(
        (place + 1) * int(param.detach().contiguous().view(-1).view(torch.int16).sum(dtype=torch.int64))
        for place, param in enumerate(model.parameters())
    )


def keep_resolved(recipe: Recipe) -> Recipe:
    """The recipe with what `auto` resolved to when the run started, so that it resumes with the same bits."""
    train = recipe.run.recipe().get("train", {}) if recipe.run.checkpoints() else {}
    kept = {}
    if recipe.train.micro_batch == "auto" and isinstance(train.get("micro_batch"), int):
        kept["micro_batch"] = train["micro_batch"]
    if recipe.train.precision == "auto" and "precision" in train:
        kept["precision"] = train["precision"]
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **kept))


def check_same(
    recipe: Recipe,
    data: Provenance,
    say: Callable[[str], None],
    ignores: frozenset[str],
    *,
    accept: bool = False,
) -> list[Change]:
    """Compare a resolved recipe with the one its run started with; returns and prints the harmless changes.

    With `accept`, changes that make a run of two different parts are allowed if they are possible at all.

    Raises:
        ConfigError: an option has changed that would make it a different run.
        CheckpointError: the Dataset is a different one.
    """
    run = recipe.run
    if not (before := run.recipe()):
        return []
    changes = [change for change in differences(before, as_tables(recipe)) if _table(change) not in ignores]
    grave = [change for change in changes if _table(change) not in FREE_TABLES and change[0] not in FREE]
    fixed = [change for change in grave if _table(change) in FIXED_TABLES or change[0] in FIXED]
    fixed = [change for change in fixed if change[0] not in LOOSE]
    if fixed or (grave and not accept):
        shown = "; ".join(f"{name} = {was}, not {now}" for name, was, now in fixed or grave)
        way_out = "" if fixed else ", or add --accept-changes if you want a run of two different parts"
        raise ConfigError(
            f"{run} started with {shown}: keep these values, or start a new run with another --out{way_out}"
        )
    _check_dataset(run, data, say if accept else None)
    shown = [change for change in changes if _table(change) not in {"out", "data"}]
    for name, was, now in shown:
        say(f"{name} was {was}, is now {now}{_new_length(recipe) if name in LENGTH else ''}")
    return shown


def _new_length(recipe: Recipe) -> str:
    """What a new length of the run does to the steps to come."""
    if recipe.optim.schedule == "constant" or recipe.optim.decay_steps is not None:
        return ""
    return (
        ": the learning rate follows the new length from here on, so the run differs from one of that length"
    )


def check_length(run: Run, done: int, max_steps: int) -> None:
    """Check before anything is written that a run is not made shorter than it is.

    Raises:
        ConfigError: it already has more steps.
    """
    if done > max_steps:
        raise ConfigError(
            f"{run} is already at step {done:,}, beyond the requested {max_steps:,}: leave out --train.max-steps or "
            "--train.epochs, or raise it; a model saved earlier is RUN@step-N"
        )


def _table(change: Change) -> str:
    return change[0].partition(".")[0]


def keep_changes(run: Run, step: int, changes: list[Change]) -> None:
    """Append changed options to changes.jsonl: recipe.toml shows only the latest start."""
    if changes:
        rows = ({"step": step, "option": name, "was": was, "now": now} for name, was, now in changes)
        files.add_rows(run / "changes.jsonl", rows)


def differences(before: Tables, now: Tables, prefix: str = "") -> list[Change]:
    """Every option that differs between two recipes' tables."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        was, new = before.get(key), now.get(key)
        if isinstance(was, dict) or isinstance(new, dict):
            found += differences(was or {}, new or {}, f"{prefix}{key}.")
        elif was != new:
            found.append((prefix + key, was, new))
    return found


def _check_dataset(run: Run, data: Provenance, say: Callable[[str], None] | None) -> None:
    """Refuse a different Dataset; or report it with `say`, if it has the same tokenizer."""
    facts = run.environment()
    before = facts.get("dataset_fingerprint")
    if not isinstance(before, str) or before == data.fingerprint:
        return
    if say and facts.get("tokenizer_fingerprint") == data.tokenizer_fingerprint:
        say(f"the data was {facts.get('dataset')}, is now {data.path}, a different Dataset")
        return
    raise CheckpointError(
        f"{run} was trained on {facts.get('dataset')} (fingerprint {before[:12]}), and {data.path} is a different "
        f"Dataset ({data.fingerprint[:12]}): use the first one again, or start a new run with another --out"
    )
