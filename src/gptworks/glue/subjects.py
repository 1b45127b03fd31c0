"""The models of a campaign: checkpoints of a pretraining run, and finished models for reference. No torch here."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gptworks import files, runs
from gptworks.errors import CheckpointError, ConfigError
from gptworks.glue.records import GlueModel
from gptworks.model import find
from gptworks.recipe import GlueOptions


def chosen(options: GlueOptions) -> tuple[GlueModel, ...]:
    """The checkpoints by step, then the models as they were given.

    Raises:
        CheckpointError: a run, checkpoint or model does not exist.
        ConfigError: none was given.
    """
    if options.run is None and not options.model:
        raise ConfigError("glue needs --run RUN or --model MODEL, as a flag or in the recipe")
    checkpoints = [] if options.run is None else [load(f"{options.run}@{step}") for step in _steps(options)]
    return (*checkpoints, *(load(spec) for spec in options.model))


def _steps(options: GlueOptions) -> list[str]:
    """`step-400` for every checkpoint that is wanted, by step."""
    assert options.run is not None
    run, wanted = runs.Run(options.run), options.checkpoints
    if not run.exists:
        raise CheckpointError(
            f"--run {run} is not a run: it has no checkpoints; create one with `gptworks pretrain`"
        )
    last = run.checkpoint()
    if wanted == "last":
        return [f"step-{_state(last)['step']}"]
    have = run.checkpoints()
    if wanted == "all":  # those marked by save.every_epochs and save.at_start; the others do not last
        marked = [checkpoint for checkpoint in have if checkpoint.kept]
        if marked and have[-1].step - marked[-1].step > 1:  # a mark may fall on the step before the last
            marked.append(have[-1])
        return [f"step-{checkpoint.step}" for checkpoint in (marked if len(marked) > 1 else have)]
    folders = [run.checkpoint(f"epoch-{_epoch(word)}") for word in wanted.split(",")]
    return [f"step-{step}" for step in sorted({_state(folder)["step"] for folder in folders})]


def _epoch(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"--checkpoints {word} is neither all, last, nor epochs such as 0,1,2.5") from None


def load(spec: str) -> GlueModel:
    """A MODEL with the facts of its pretraining.

    Raises:
        CheckpointError: it does not exist.
    """
    folder = find.find_checkpoint(spec)
    run = folder.parent.parent
    if (folder / runs.MARKER).is_file() and runs.is_run(run):
        state = _state(folder)
        step = state["step"]
        name, model = f"{run.resolve().name}@step-{step}", f"{run}@step-{step}"
        return GlueModel(name, model, step, state["epoch"], state.get("tokens"), fingerprint(folder))
    name = folder.resolve().name if Path(spec).exists() else spec.replace("/", "--")
    return GlueModel(name, spec, fingerprint=fingerprint(folder))


def fingerprint(folder: Path) -> str:
    """SHA-256 of a folder's weight files, or of the checksums saved with a checkpoint."""
    digest = hashlib.sha256()
    marker = folder / runs.MARKER
    if marker.is_file():
        saved = json.loads(marker.read_text(encoding="utf-8"))["sha256"]
        sums = {
            name: checksum
            for name, checksum in saved.items()
            if name.endswith(".safetensors") and "/" not in name
        }
    else:
        weights = [file for ending in ("safetensors", "bin") for file in folder.glob(f"*.{ending}")]
        sums = {file.name: files.checksum(file) for file in weights}
    for name, checksum in sorted(sums.items()):
        digest.update(f"{name} {checksum}\n".encode())
    return digest.hexdigest()


def _state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / runs.STATE).read_text(encoding="utf-8"))
