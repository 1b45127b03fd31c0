"""A Run's folder: the documented interface between tools.

    RUN/recipe.toml             the resolved recipe
        environment.json        versions, machine, Dataset fingerprint
        metrics.jsonl           a row a step, and rows of evaluations
        samples.jsonl           texts generated on the way
        checkpoints/step-001000/    a model folder, and trainer/ with all that resuming needs
        results/*.json plots/*.png report.html

A checkpoint counts once `trainer/complete.json` stands in it, which is written last and holds a checksum of
every other file. No torch here: plots and pages read a Run without it.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptworks.errors import CheckpointError, InUseError, ResourceError

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
    """Not to be thrown away by the keep-last policy."""
    sound: bool = True
    """The step before it was learned from: its loss and gradient were finite, and no spike."""


def checkpoints(run: Path) -> list[Checkpoint]:
    """The finished checkpoints of a run, oldest first. Folders without their marker are not checkpoints."""
    found = []
    for folder in _finished(run):
        try:
            found.append(_read(folder))
        except CheckpointError:
            continue  # damaged: newest_good says so before anything is lost
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def best(have: list[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest validation loss, the first of several; None where none was measured."""
    measured = [(one.val_loss, one) for one in have if one.val_loss is not None]
    lowest = min(measured, key=lambda pair: (math.isnan(pair[0]), pair[0]), default=None)
    return lowest and lowest[1]


def _finished(run: Path) -> list[Path]:
    found = (path.parent.parent for path in (run / "checkpoints").glob(f"step-*/{MARKER}"))
    return sorted(
        found, key=lambda folder: (len(folder.name), folder.name)
    )  # step-1000000 is after step-999999


def _read(folder: Path) -> Checkpoint:
    try:
        facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
        numbers = facts["step"], facts["epoch"], facts.get("val_loss")
        if type(numbers[0]) is int and all(isinstance(number, int | float | None) for number in numbers[1:]):
            return Checkpoint(folder, *numbers, bool(facts.get("kept")), not facts.get("non_finite"))
        raise TypeError(f"{numbers!r:.80}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{STATE} cannot be read ({error!s:.80})") from None


def is_run(path: Path) -> bool:
    """True if `path` is a run's folder."""
    return (path / "checkpoints").is_dir() or (
        (path / "recipe.toml").is_file() and (path / "metrics.jsonl").is_file()
    )


def find_checkpoint(run: Path, which: str | None = None) -> Path:
    """The folder of `RUN`, `RUN@best`, `RUN@step-400` or `RUN@epoch-2.5`.

    Raises:
        CheckpointError: the run has no such checkpoint; the message lists what it has.
    """
    have = checkpoints(run)
    if not have:
        raise CheckpointError(f"{run} has no finished checkpoint yet")
    if which is None:
        return have[-1].path
    if which == "best":
        if (lowest := best(have)) is None:
            raise CheckpointError(
                f"{run} has no checkpoint with a validation loss, so {run}@best does not exist"
            )
        return lowest.path
    kind, _, number = which.partition("-")
    try:
        wanted = float(number)
        if kind == "step":
            return next(checkpoint.path for checkpoint in have if checkpoint.step == wanted)
        if kind == "epoch":
            near = min(have, key=lambda checkpoint: abs(checkpoint.epoch - wanted))
            half_a_step = (
                0.5 * near.epoch / near.step if near.step else 0.0
            )  # epochs are seldom whole numbers of steps
            if abs(near.epoch - wanted) <= half_a_step + 1e-6:
                return near.path
    except (ValueError, StopIteration):
        pass
    listed = ", ".join(f"step-{checkpoint.step} (epoch-{checkpoint.epoch:g})" for checkpoint in have[-8:])
    raise CheckpointError(f"{run}@{which} does not exist; write best or one of {listed}")


@contextmanager
def locked(run: Path, *, hold: bool = True) -> Iterator[None]:
    """Hold the run's folder for this process; the system lets go of it when the process ends, however it ends.

    With several processes one holds it for all: the others pass hold=False.

    Raises:
        InUseError: another process holds it.
    """
    if not hold:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise InUseError(f"{run} is in use by {owner}; wait for it, stop it, or give another --out")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 4096, os.SEEK_SET)  # a byte beyond the owner's name, the same for everyone
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {
            errno.EWOULDBLOCK,
            errno.EACCES,
            errno.EDEADLK,
        }  # else: this disk knows no locks
    return True


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def finish(draft: Path, final: Path) -> None:
    """Make a drafted checkpoint real: checksum and fsync every file, rename the folder, write the marker last."""
    sums = {}
    for file in sorted(path for path in draft.rglob("*") if path.is_file()):
        sums[file.relative_to(draft).as_posix()] = checksum(file)
        sync(file)
    for folder in [draft, *(path for path in draft.rglob("*") if path.is_dir())]:
        sync(folder)
    if final.exists():
        (final / MARKER).unlink(missing_ok=True)  # from here on it is no checkpoint, however far this comes
        shutil.rmtree(final)
    draft.rename(final)
    for folder in (final.parent, final.parent.parent):
        sync(folder)
    write_json(final / MARKER, {"sha256": sums})


def damage(checkpoint: Path, *, besides: str | None = None) -> str | None:
    """What is wrong with a checkpoint's files, or None. Those whose name begins with `besides` are not looked at."""
    try:
        sums = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["sha256"]
        for name, wanted in sums.items():
            if besides and name.startswith(besides):
                continue
            if Path(name).is_absolute() or ".." in Path(name).parts:
                return f"{MARKER} names {name!r:.80}, which leads out of it"
            if not (checkpoint / name).is_file():
                return f"{name:.80} is missing"
            if checksum(checkpoint / name) != wanted:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        return f"{MARKER} cannot be read ({error})"
    return None


def newest_good(run: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    """The newest checkpoint whose files match their checksums; and those passed over, with what is wrong with them."""
    passed = {}
    for folder in reversed(_finished(run)):
        if (wrong := damage(folder)) is None:
            try:
                return _read(folder), passed
            except CheckpointError as error:
                wrong = str(error)
        passed[folder] = f"{folder.name} is damaged: {wrong}"
    return None, passed


def put_aside(checkpoint: Path) -> None:
    """Rename a damaged checkpoint so that nothing takes it for one; its files stay for whoever wants to look."""
    aside = checkpoint.with_name(f".damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def discard(checkpoint: Path) -> None:
    """Throw a checkpoint away; interrupted, `clear_drafts` does the rest."""
    (checkpoint / MARKER).unlink(missing_ok=True)  # from here on it is none
    shutil.rmtree(checkpoint, ignore_errors=True)


def clear_drafts(run: Path) -> None:
    """Remove what a kill left half written: drafts, and renamed folders without their marker."""
    for folder in (run / "checkpoints").glob("*"):
        if folder.name.startswith(".damaged-"):
            continue
        if folder.name.startswith(".draft-") or (folder.is_dir() and not (folder / MARKER).is_file()):
            shutil.rmtree(folder, ignore_errors=True)
    for draft in (*run.glob(".*.draft"), *run.glob("results/.*.draft")):
        draft.unlink(missing_ok=True)


def need_space(folder: Path, wanted: int, what: str) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        ResourceError: with the numbers.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ResourceError(
            f"{what} needs {wanted / 1e9:.3g} GB of disk at {folder}, which has {free / 1e9:.3g} GB free: "
            f"free {(wanted - free) / 1e9:.3g} GB or give another --out"
        )


def sync(path: Path) -> None:
    """Push a file or folder to the disk, so that a power cut cannot undo it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(file: Path, value: Any) -> None:
    """Write beside and rename, synced: readers see the old file or the new one."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write beside and rename, synced: readers see the old file or the new one."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    sync(draft)
    draft.replace(file)
    sync(file.parent)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; a last line cut off by a kill is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def add_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a JSONL file, synced."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())


def cut_rows(file: Path, step: int) -> None:
    """Forget the rows after `step`: they belong to work that was lost and will be done again."""
    if file.is_file():
        rows = [row for row in read_rows(file) if row.get("step", 0) <= step]
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def step_name(step: int) -> str:
    """A checkpoint folder's name."""
    return f"step-{step:06d}"


def split_spec(spec: str) -> tuple[str, str | None]:
    """`RUN@best` -> (`RUN`, `best`)."""
    match = re.fullmatch(r"(.+)@(best|step-\d+|epoch-[\d.]+)", spec)
    return (match[1], match[2]) if match else (spec, None)
