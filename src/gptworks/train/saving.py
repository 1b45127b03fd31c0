"""Checkpoints of a training run: a model folder that transformers opens, and trainer/ with everything resuming needs.

step-001000/config.json model.safetensors tokenizer.json ...     loads with transformers' from_pretrained
            trainer/optimizer.safetensors                        moments by parameter name; ZeRO-1 and FSDP: shards
                    state.json                                   step, epoch, seconds spent, best loss, loss scale
                    complete.json                                checksums; written last
"""

import errno
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from gptworks import runs
from gptworks.errors import CheckpointError, ResourceError
from gptworks.model import folders
from gptworks.model.folders import AdapterInfo
from gptworks.processes import World
from gptworks.runs import Run
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import optimizer_state, out_of_memory
from gptworks.train.parallel import full_model, load_full
from gptworks.train.trainer import Trainer


@dataclass(frozen=True)
class RunState:
    """The progress of a run: what trainer/state.json holds."""

    step: int
    epoch: float
    tokens: int
    seconds: float
    """Wall time since the run started, summed over all resumes."""
    best_val_loss: float | None
    val_loss: float | None
    """Validation loss at this step, if it was measured."""
    kept: bool
    """Exempt from save.keep."""
    non_finite: int
    """Skipped steps in a row, up to this one."""


def checkpoint_bytes(trainer: Trainer, adapted: AdapterInfo | None = None) -> int:
    """Size of a checkpoint, even before the first step creates the moments; with `adapted`, of the adapter alone."""
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    saved = sum(p.numel() for p in trainer.model.parameters()) if adapted is None else trained
    return 4 * (saved + 2 * trained) + (4 << 20)


class PendingCheckpoint:
    """A checkpoint that is not complete until `wait` returns. `start` writes it in the background."""

    def __init__(self, work: Callable[[], None], folder: Path, world: World) -> None:
        self.work, self.folder, self.world = work, folder, world
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Do the work in a thread while training continues."""
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._error = error

    def wait(self) -> Path:
        """The checkpoint's folder, once it is complete. Every process calls it.

        Raises:
            ResourceError: the disk is full; earlier checkpoints stay intact.
        """
        if self._thread is None:
            self.work()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        self.world.wait_for_main()
        return self.folder


def save(
    run: Run, trainer: Trainer, tokenizer: Tokenizer, progress: RunState, adapted: AdapterInfo | None = None
) -> Path:
    """Write a checkpoint atomically: after a kill or a power cut at any moment, all finished checkpoints are intact.

    With `adapted` the model folder holds the adapter alone. Every process calls it together. The main one writes the
    model; it also writes the optimizer state, unless that is sharded and every process writes its own shard.

    Raises:
        ResourceError: the disk is full; earlier checkpoints stay intact.
    """
    return async_save(run, trainer, tokenizer, progress, adapted).wait()


def async_save(
    run: Run, trainer: Trainer, tokenizer: Tokenizer, progress: RunState, adapted: AdapterInfo | None = None
) -> PendingCheckpoint:
    """The part of `save` that must precede the next step: write the model and copy sharded optimizer state.

    Writing the shards, syncing and checksumming is left to the returned PendingCheckpoint.
    """
    final = run / "checkpoints" / runs.step_name(progress.step)
    draft = final.with_name(f".draft-{final.name}")
    main, shards, group = trainer.world.main, None, None
    with _cleaning_up(draft, run, trainer, adapted):
        if main:
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "trainer").mkdir(parents=True)
        with full_model(trainer.model, torch.device("cpu"), keep=main) as model:
            if main:
                folders.save(model, draft, tokenizer, adapted)
                _write_state(draft / "trainer", trainer, progress)
        if not trainer.param_shards.replicated:
            trainer.world.wait_for_main()
            shards, group = optimizer_state.local_shards(trainer), trainer.world.background_group
        elif main:
            optimizer_state.save_full(draft / "trainer", trainer)

    def finish() -> None:
        with _cleaning_up(draft, run, trainer, adapted):
            if shards is not None:
                optimizer_state.save_sharded(draft / "trainer", shards, group)
            if main:
                runs.finish(draft, final)

    pending = PendingCheckpoint(finish, final, trainer.world)
    if shards is not None:
        pending.start()
    return pending


@contextmanager
def _cleaning_up(draft: Path, run: Run, trainer: Trainer, adapted: AdapterInfo | None) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not _disk_full(error):
            raise
        free, needed = shutil.disk_usage(run).free / 1e9, checkpoint_bytes(trainer, adapted) / 1e9
        raise ResourceError(
            f"the disk of {run} is full ({free:.2f} GB free; a checkpoint takes {needed:.2f} GB): "
            f"{runs.step_name(trainer.step)} was not saved. Earlier checkpoints are intact: free some space, then use "
            "--resume"
        ) from error


def _write_state(folder: Path, trainer: Trainer, progress: RunState) -> None:
    state: dict[str, Any] = vars(progress) | {
        "optimizers": [type(o).__name__ for o in trainer.optimizers],
        "watch": trainer.anomalies.state_dict(),
        "cut": out_of_memory.state_dict(trainer),
    }
    if trainer.loss_scale is not None:
        state["loss_scale"] = [trainer.loss_scale.scale.item(), trainer.loss_scale.good_steps.item()]
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, CheckpointException):  # collects the errors of all processes
        return any(_disk_full(failure[0]) for failure in error.failures.values())
    # safetensors wraps the system's error in its own, as text
    wrapped = re.search(r"os error (\d+)", str(error))
    number = int(wrapped[1]) if wrapped else getattr(error, "errno", None)
    return number in {errno.ENOSPC, getattr(errno, "EDQUOT", None), 112}  # 112: Windows' ERROR_DISK_FULL


def find_resume_point(run: Run, note: Callable[[str], None], *, clear: bool) -> Path | None:
    """The newest intact checkpoint, or None if the run has none yet; `note` reports damaged ones.

    With `clear`, half-written drafts are removed, and damaged checkpoints are renamed out of the way.

    Raises:
        CheckpointError: the run has checkpoints, but all are damaged.
    """
    if clear:
        run.clear_drafts()
    checkpoint, damaged = run.newest_good()
    for folder, problem in damaged.items():
        note(f"{problem}; going back to the one before")
        if clear and checkpoint is not None:
            runs.put_aside(folder)
    if checkpoint is None and damaged:
        raise CheckpointError(f"all checkpoints of {run} are damaged; start again with another --out")
    return None if checkpoint is None else checkpoint.path


def load(folder: Path, trainer: Trainer) -> RunState:
    """Load a checkpoint into a trainer with any number of processes and any sharding. Every process calls it.

    Raises:
        CheckpointError: the checkpoint belongs to another model or optimizer, or cannot be read.
    """
    state, progress = _read_state(folder)
    names = [type(optimizer).__name__ for optimizer in trainer.optimizers]
    if state.get("optimizers") != names:
        raise CheckpointError(
            f"{folder} was written with optimizers {state.get('optimizers')}, not {names}; keep --optim.name"
        )
    with full_model(trainer.model, torch.device("cpu")) as model:
        folders.load_into(model, folder)
        load_full(trainer.model, model)
    optimizer_state.load(folder / "trainer", trainer)
    try:
        if trainer.loss_scale is not None and "loss_scale" in state:
            scale, good = state["loss_scale"]
            trainer.loss_scale.scale.fill_(scale)
            trainer.loss_scale.good_steps.fill_(good)
        trainer.anomalies.load_state_dict(state.get("watch"))
        out_of_memory.load_state_dict(trainer, state.get("cut"))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise _damaged_state(folder, error) from None
    trainer.step = progress.step
    return progress


def _read_state(folder: Path) -> tuple[dict[str, Any], RunState]:
    try:
        state = json.loads((folder / runs.STATE).read_text(encoding="utf-8"))
        progress = RunState(**{name: state[name] for name in RunState.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged_state(folder, error) from None
    for name, hint in get_type_hints(RunState).items():
        if not isinstance(value := getattr(progress, name), hint):
            raise _damaged_state(folder, f"{name} is {value!r:.40}")
    if not 0 <= progress.step < 2**53 or progress.tokens < 0 or progress.non_finite < 0:
        raise _damaged_state(folder, "a count is out of range")
    return state, progress


def _damaged_state(folder: Path, why: object) -> CheckpointError:
    return CheckpointError(f"{folder} cannot be resumed from: {runs.STATE} is damaged ({why!s:.200})")


def prune(run: Run, keep: int, keep_every: int) -> None:
    """Delete checkpoints, except the newest `keep`, kept ones, the best, and multiples of `keep_every`."""
    checkpoints = run.checkpoints()
    best = runs.best(checkpoints)
    for old in checkpoints[:-keep]:
        if old.kept or old == best or (keep_every and old.step % keep_every == 0):
            continue
        runs.discard(old.path)
