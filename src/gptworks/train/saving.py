"""Checkpoints of a training run: a model folder anyone can open, and trainer/ with all that resuming needs.

step-001000/config.json model.safetensors tokenizer.json ...     transformers opens this as it is
            trainer/optimizer.safetensors                        moments, by parameter name; or in pieces: states.py
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
from gptworks.model.folders import Adapted
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import out_of_memory, states
from gptworks.train.parallel import put_back, whole
from gptworks.train.trainer import Trainer
from gptworks.world import World


@dataclass(frozen=True)
class Progress:
    """Where a run is, besides its tensors."""

    step: int
    epoch: float
    tokens: int
    seconds: float
    """Wall time spent in training, over all resumes."""
    best_val_loss: float | None
    val_loss: float | None
    """Measured at this very step, if it was."""
    kept: bool
    """Not to be thrown away by the keep-last policy."""
    non_finite: int
    """Steps in a row that were not learned from up to here."""


def size_on_disk(trainer: Trainer, adapted: Adapted | None = None) -> int:
    """Bytes of one checkpoint, before the first step too; with `adapted`, of the adapter alone."""
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    kept = sum(p.numel() for p in trainer.model.parameters()) if adapted is None else trained
    return 4 * (kept + 2 * trained) + (4 << 20)


class Pending:
    """A checkpoint that is being written, and may be while training goes on."""

    def __init__(self, work: Callable[[], None], folder: Path, world: World) -> None:
        self.work, self.folder, self.world = work, folder, world
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def go_on(self) -> None:
        """Write it beside whatever this process does meanwhile."""
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._error = error

    def wait(self) -> Path:
        """Until it is there. Every process does.

        Raises:
            ResourceError: the disk is full; nothing of earlier checkpoints is lost.
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
    run: Path, trainer: Trainer, tokenizer: Tokenizer, progress: Progress, adapted: Adapted | None = None
) -> Path:
    """Write a checkpoint so that a kill or a power cut at any moment leaves the earlier ones, or this one, whole.

    With `adapted` the model folder is the adapter alone. Every process calls it together; the main one writes the model
    and, where each process has all of it, the optimizers' state; else every process writes its share of that.

    Raises:
        ResourceError: the disk is full; nothing of earlier checkpoints is lost.
    """
    return begin(run, trainer, tokenizer, progress, adapted).wait()


def begin(
    run: Path, trainer: Trainer, tokenizer: Tokenizer, progress: Progress, adapted: Adapted | None = None
) -> Pending:
    """Do of `save` what must be done before training goes on: write the model, and copy shares of optimizers' state.

    What is left is to write those shares, to sync and to checksum. Until it is waited for there is no such checkpoint.
    """
    final = run / "checkpoints" / runs.step_name(progress.step)
    draft = final.with_name(f".draft-{final.name}")
    main, mine, aside = trainer.world.main, None, None
    with _cleaning_up(draft, run, trainer, adapted):
        if main:
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "trainer").mkdir(parents=True)
        with whole(trainer.model, torch.device("cpu"), keep=main) as model:
            if main:
                folders.write(model, draft, tokenizer, adapted)
                _write_state(draft / "trainer", trainer, progress)
        if not trainer.shares.everywhere:
            trainer.world.wait_for_main()
            mine, aside = states.pieces(trainer), trainer.world.aside
        elif main:
            states.write_whole(draft / "trainer", trainer)

    def rest() -> None:
        with _cleaning_up(draft, run, trainer, adapted):
            if mine is not None:
                states.write_pieces(draft / "trainer", mine, aside)
            if main:
                runs.finish(draft, final)

    pending = Pending(rest, final, trainer.world)
    if mine is not None:
        pending.go_on()
    return pending


@contextmanager
def _cleaning_up(draft: Path, run: Path, trainer: Trainer, adapted: Adapted | None) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise _explained(error, run, trainer, adapted) from error


def _write_state(folder: Path, trainer: Trainer, progress: Progress) -> None:
    state: dict[str, Any] = vars(progress) | {
        "optimizers": [type(o).__name__ for o in trainer.optimizers],
        "watch": trainer.watch.state(),
        "cut": out_of_memory.state(trainer),
    }
    if trainer.loss_scale is not None:
        state["loss_scale"] = [trainer.loss_scale.scale.item(), trainer.loss_scale.good_steps.item()]
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def _explained(error: BaseException, run: Path, trainer: Trainer, adapted: Adapted | None) -> BaseException:
    """A full disk in a person's words; other errors as they are."""
    if not _disk_full(error):
        return error
    free, wanted = shutil.disk_usage(run).free / 1e9, size_on_disk(trainer, adapted) / 1e9
    return ResourceError(
        f"the disk of {run} is full ({free:.2f} GB free, and a checkpoint takes {wanted:.2f} GB): "
        f"{runs.step_name(trainer.step)} could not be saved. Earlier ones are whole: free some space, then --resume"
    )


def _disk_full(error: BaseException) -> bool:
    if isinstance(error, CheckpointException):  # of any process
        return any(_disk_full(failure[0]) for failure in error.failures.values())
    # safetensors wraps the system's error in its own, as text
    said = re.search(r"os error (\d+)", str(error))
    number = int(said[1]) if said else getattr(error, "errno", None)
    return number in {errno.ENOSPC, getattr(errno, "EDQUOT", None), 112}  # 112: Windows' ERROR_DISK_FULL


def resume_point(run: Path, note: Callable[[str], None], *, clear: bool) -> Path | None:
    """The newest checkpoint that is whole, or None if there is none yet; what was passed over is said.

    With `clear`, what kills left half written is removed, and damaged checkpoints are put aside.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    if clear:
        runs.clear_drafts(run)
    checkpoint, passed = runs.newest_good(run)
    for folder, words in passed.items():
        note(f"{words}; going back to the one before")
        if clear and checkpoint is not None:
            runs.put_aside(folder)
    if checkpoint is None and passed:
        raise CheckpointError(f"every checkpoint of {run} is damaged; give another --out to start again")
    return None if checkpoint is None else checkpoint.path


def load(folder: Path, trainer: Trainer) -> Progress:
    """Continue from a checkpoint, on any number of processes and however they share. Every process calls it.

    Raises:
        CheckpointError: it does not fit this model or optimizer, or cannot be read.
    """
    state, progress = _read_state(folder)
    kinds = [type(optimizer).__name__ for optimizer in trainer.optimizers]
    if state.get("optimizers") != kinds:
        raise CheckpointError(
            f"{folder} was written with {state.get('optimizers')}, not {kinds}; keep --optim.kind"
        )
    with whole(trainer.model, torch.device("cpu")) as model:
        folders.read_into(model, folder)
        put_back(trainer.model, model)
    states.read(folder / "trainer", trainer)
    try:
        if trainer.loss_scale is not None and "loss_scale" in state:
            scale, good = state["loss_scale"]
            trainer.loss_scale.scale.fill_(scale)
            trainer.loss_scale.good_steps.fill_(good)
        trainer.watch.restore(state.get("watch"))
        out_of_memory.restore(trainer, state.get("cut"))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise _not_a_state(folder, error) from None
    trainer.step = progress.step
    return progress


def _read_state(folder: Path) -> tuple[dict[str, Any], Progress]:
    try:
        state = json.loads((folder / runs.STATE).read_text(encoding="utf-8"))
        progress = Progress(**{name: state[name] for name in Progress.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_state(folder, error) from None
    kinds = get_type_hints(Progress)
    if odd := [name for name, kind in kinds.items() if not isinstance(getattr(progress, name), kind)]:
        raise _not_a_state(folder, f"{odd[0]} is {getattr(progress, odd[0])!r:.40}")
    if not 0 <= progress.step < 2**53 or progress.tokens < 0 or progress.non_finite < 0:
        raise _not_a_state(folder, "what is counted in it was never counted")
    return state, progress


def _not_a_state(folder: Path, why: object) -> CheckpointError:
    return CheckpointError(f"{folder} cannot be resumed from: {runs.STATE} is damaged ({why!s:.200})")


def prune(run: Path, keep: int, keep_every: int) -> None:
    """Throw away checkpoints, but not the newest `keep`, kept ones, the best, or multiples of `keep_every`."""
    have = runs.checkpoints(run)
    best = runs.best(have)
    for old in have[:-keep]:
        if old.kept or old == best or (keep_every and old.step % keep_every == 0):
            continue
        runs.discard(old.path)
