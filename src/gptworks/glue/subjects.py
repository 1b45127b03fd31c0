"""Which models a campaign measures: checkpoints of a pretraining run, and finished models beside them. No torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from gptworks import runs
from gptworks.errors import CheckpointError, ConfigError
from gptworks.glue.records import Subject
from gptworks.model import find
from gptworks.recipe import GlueOptions


def chosen(options: GlueOptions) -> tuple[Subject, ...]:
    """The checkpoints by step, then the models as they are named.

    Raises:
        CheckpointError: there is no such run, checkpoint or model.
        ConfigError: nothing is asked for.
    """
    if options.run is None and not options.model:
        raise ConfigError("glue needs --run RUN or --model MODEL, as a flag or in the recipe")
    ours = [] if options.run is None else [subject(f"{options.run}@{step}") for step in _steps(options)]
    return (*ours, *(subject(spec) for spec in options.model))


def _steps(options: GlueOptions) -> list[str]:
    """`step-400` of every checkpoint that is asked for, by step."""
    run, asked = options.run, options.checkpoints
    assert run is not None
    if not runs.is_run(run):
        raise CheckpointError(f"--run {run} is no run: it has no checkpoints; `gptworks pretrain` makes them")
    last = runs.find_checkpoint(run)
    if asked == "last":
        return [f"step-{_state(last)['step']}"]
    have = runs.checkpoints(run)
    if asked == "all":  # marked ones, by save.every_epochs and save.at_start; the others come and go
        marked = [one for one in have if one.kept]
        if marked and have[-1].step - marked[-1].step > 1:  # a mark may fall on the step before the last
            marked.append(have[-1])
        return [f"step-{one.step}" for one in (marked if len(marked) > 1 else have)]
    folders = [runs.find_checkpoint(run, f"epoch-{_epoch(word)}") for word in asked.split(",")]
    return [f"step-{step}" for step in sorted({_state(folder)["step"] for folder in folders})]


def _epoch(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"--checkpoints {word} is neither all, last, nor epochs such as 0,1,2.5") from None


def subject(spec: str) -> Subject:
    """A MODEL with what is known of its pretraining.

    Raises:
        CheckpointError: there is no such model.
    """
    folder = find.resolve(spec)
    run = folder.parent.parent
    if (folder / runs.MARKER).is_file() and runs.is_run(run):
        state = _state(folder)
        step = state["step"]
        name, model = f"{run.resolve().name}@step-{step}", f"{run}@step-{step}"
        return Subject(name, model, step, state["epoch"], state.get("tokens"), fingerprint(folder))
    name = folder.resolve().name if Path(spec).exists() else spec.replace("/", "--")
    return Subject(name, spec, fingerprint=fingerprint(folder))


def fingerprint(folder: Path) -> str:
    """sha256 of a folder's weights, as files; of a checkpoint, as it was saved."""
    digest = hashlib.sha256()
    marker = folder / runs.MARKER
    if marker.is_file():
        sums = json.loads(marker.read_text(encoding="utf-8"))["sha256"]
        found = {name: sum for name, sum in sums.items() if name.endswith(".safetensors") and "/" not in name}
    else:
        files = [file for end in ("safetensors", "bin") for file in folder.glob(f"*.{end}")]
        found = {file.name: runs.checksum(file) for file in files}
    for name, sum in sorted(found.items()):
        digest.update(f"{name} {sum}\n".encode())
    return digest.hexdigest()


def _state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / runs.STATE).read_text(encoding="utf-8"))
