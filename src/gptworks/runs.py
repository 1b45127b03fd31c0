"""A run's folder: the documented interface between tools.

    RUN/recipe.toml             the resolved recipe
        environment.json        versions, machine, Dataset fingerprint
        metrics.jsonl           one row per step, and rows of evaluations
        samples.jsonl           texts generated during training
        checkpoints/step-001000/    a model folder, and trainer/ with everything that resuming needs
        results/*.json plots/*.png report.html

A checkpoint counts once `trainer/complete.json` exists, which is written last and holds a checksum of every other
file. No torch here: plots and pages read a run without it.
"""

import contextlib
import json
import math
import os
import re
import shutil
import tomllib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptworks import files, renames, results
from gptworks.errors import CheckpointError, DataError
from gptworks.results import Result

MARKER = "trainer/complete.json"
STATE = "trainer/state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint of a run."""

    path: Path
    step: int
    epoch: float
    val_loss: float | None
    """Validation loss at this step, in nats per token; None where it was not measured."""
    kept: bool
    """Exempt from the keep-last policy."""
    sound: bool = True
    """The step before it was a good one: its loss and gradient were finite, and it was not a spike."""


class Run(os.PathLike[str]):
    """One execution of a recipe, in its folder. `run / "metrics.jsonl"` is a path inside it."""

    def __init__(self, path: str | os.PathLike[str], *, stopped: str | None = None) -> None:
        self.path = Path(path)
        self.stopped = stopped
        """What stopped the training that returned this run early: a signal's name or train.max_hours."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """True if the folder holds a run."""
        return (self / "checkpoints").is_dir() or (
            (self / "recipe.toml").is_file() and (self / "metrics.jsonl").is_file()
        )

    def recipe(self) -> dict[str, Any]:
        """The tables of recipe.toml; empty if there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = self / "recipe.toml"
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            return renames.translate(tables)
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error!s:.80}), so the options that this run started with are unknown: restore "
                "it, or choose another --out"
            ) from None

    def environment(self) -> dict[str, Any]:
        """Versions, machine and data, from environment.json; empty if it is missing or damaged."""
        try:
            facts = json.loads((self / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    @property
    def finished(self) -> bool | None:
        """True if the run has taken its last step; None if its length is unknown (a run of version 0.1)."""
        if (self / "results" / "tries.json").is_file():
            return True
        max_steps = self.environment().get("max_steps", self.recipe().get("train", {}).get("max_steps"))
        have = self.checkpoints()
        return None if max_steps is None else bool(have) and have[-1].step >= max_steps

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl: one per step, and one per evaluation."""
        return files.read_rows(self / "metrics.jsonl")

    def results(self) -> list[Result]:
        """The scores in results/*.json; files without `rows`, or that cannot be read, are skipped."""
        found: list[Result] = []
        for file in sorted((self / "results").glob("*.json")):
            with contextlib.suppress(DataError):
                found += results.read(file)
        return found

    def checkpoints(self) -> list[Checkpoint]:
        """The finished checkpoints, oldest first. Folders without their marker are not checkpoints."""
        found = []
        for folder in self._finished():
            try:
                found.append(_read(folder))
            except CheckpointError:
                continue  # damaged: newest_good reports it before anything is lost
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def checkpoint(self, which: str | None = None) -> Path:
        """The folder of the newest checkpoint, or of `best`, `step-400` or `epoch-2.5`.

        Raises:
            CheckpointError: the run has no such checkpoint; the message lists those it has.
        """
        have = self.checkpoints()
        if not have:
            raise CheckpointError(f"{self} has no finished checkpoint yet")
        if which is None:
            return have[-1].path
        if which == "best":
            if (lowest := best(have)) is None:
                raise CheckpointError(
                    f"{self} has no checkpoint with a validation loss, so {self}@best does not exist"
                )
            return lowest.path
        kind, _, number = which.partition("-")
        try:
            wanted = float(number)
            if kind == "step":
                return next(checkpoint.path for checkpoint in have if checkpoint.step == wanted)
            if kind == "epoch":
                near = min(have, key=lambda checkpoint: abs(checkpoint.epoch - wanted))
                # epochs are seldom whole numbers of steps
                half_a_step = 0.5 * near.epoch / near.step if near.step else 0.0
                if abs(near.epoch - wanted) <= half_a_step + 1e-6:
                    return near.path
        except (ValueError, StopIteration):
            pass
        listed = ", ".join(f"step-{checkpoint.step} (epoch-{checkpoint.epoch:g})" for checkpoint in have[-8:])
        raise CheckpointError(f"{self}@{which} does not exist; write best or one of {listed}")

    def newest_good(self) -> tuple[Checkpoint | None, dict[Path, str]]:
        """The newest checkpoint whose files match their checksums; and the skipped ones, with what is wrong."""
        passed = {}
        for folder in reversed(self._finished()):
            if (wrong := damage(folder)) is None:
                try:
                    return _read(folder), passed
                except CheckpointError as error:
                    wrong = str(error)
            passed[folder] = f"{folder.name} is damaged: {wrong}"
        return None, passed

    def clear_drafts(self) -> None:
        """Remove what a kill left half written: drafts, and renamed folders without their marker."""
        for folder in (self / "checkpoints").glob("*"):
            if folder.name.startswith(".damaged-"):
                continue
            if folder.name.startswith(".draft-") or (folder.is_dir() and not (folder / MARKER).is_file()):
                shutil.rmtree(folder, ignore_errors=True)
        for draft in (*self.path.glob(".*.draft"), *self.path.glob("results/.*.draft")):
            files.remove(draft)

    def locked(self, *, hold: bool = True) -> AbstractContextManager[None]:
        """Hold the folder for this process; see `files.locked`."""
        return files.locked(self.path, hold=hold)

    def _finished(self) -> list[Path]:
        found = (path.parent.parent for path in (self / "checkpoints").glob(f"step-*/{MARKER}"))
        # step-1000000 comes after step-999999
        return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def is_run(path: str | os.PathLike[str]) -> bool:
    """True if `path` is a run's folder."""
    return Run(path).exists


def best(have: list[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest validation loss, the first of several; None where none was measured."""
    measured = [(one.val_loss, one) for one in have if one.val_loss is not None]
    lowest = min(measured, key=lambda pair: (math.isnan(pair[0]), pair[0]), default=None)
    return lowest and lowest[1]


def _read(folder: Path) -> Checkpoint:
    try:
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        numbers = facts["step"], facts["epoch"], facts.get("val_loss")
        if type(numbers[0]) is int and all(isinstance(number, int | float | None) for number in numbers[1:]):
            return Checkpoint(folder, *numbers, bool(facts.get("kept")), not facts.get("non_finite"))
        raise TypeError(f"{numbers!r:.80}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{STATE} cannot be read ({error!s:.80})") from None


def finish(draft: Path, final: Path) -> None:
    """Publish a draft checkpoint: checksum and fsync every file, rename the folder, write the marker last."""
    sums = {}
    for file in sorted(path for path in draft.rglob("*") if path.is_file()):
        sums[file.relative_to(draft).as_posix()] = files.checksum(file)
        files.sync(file)
    for folder in [draft, *(path for path in draft.rglob("*") if path.is_dir())]:
        files.sync(folder)
    if final.exists():
        (final / MARKER).unlink(missing_ok=True)  # from here on it is not a checkpoint, whatever happens
        shutil.rmtree(final)
    draft.rename(final)
    for folder in (final.parent, final.parent.parent):
        files.sync(folder)
    files.write_json(final / MARKER, {"sha256": sums})


def damage(checkpoint: Path, *, besides: str | None = None) -> str | None:
    """What is wrong with a checkpoint's files, or None. Skips files whose name begins with `besides`."""
    try:
        sums = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["sha256"]
        for name, wanted in sums.items():
            if besides and name.startswith(besides):
                continue
            if Path(name).is_absolute() or ".." in Path(name).parts:
                return f"{MARKER} names {name!r:.80}, which is outside of it"
            if not (checkpoint / name).is_file():
                return f"{name:.80} is missing"
            if files.checksum(checkpoint / name) != wanted:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        return f"{MARKER} cannot be read ({error})"
    return None


def put_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint so that nothing takes it for one; its files stay for inspection."""
    aside = checkpoint.with_name(f".damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint; if interrupted, `Run.clear_drafts` finishes the job."""
    (checkpoint / MARKER).unlink(missing_ok=True)  # from here on it is not a checkpoint
    shutil.rmtree(checkpoint, ignore_errors=True)


def step_name(step: int) -> str:
    """A checkpoint folder's name."""
    return f"step-{step:06d}"


def split_spec(spec: str) -> tuple[str, str | None]:
    """`RUN@best` -> (`RUN`, `best`)."""
    match = re.fullmatch(r"(.+)@(best|step-\d+|epoch-[\d.]+)", spec)
    return (match[1], match[2]) if match else (spec, None)
