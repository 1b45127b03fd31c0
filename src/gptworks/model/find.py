"""Resolve MODEL on a command line to a folder. Nothing is guessed."""

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download

from gptworks import runs
from gptworks.errors import CheckpointError
from gptworks.hub import explain_error
from gptworks.messages import nearest

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
LIBRARIES = ("huggingface_hub", "httpx", "requests", "hf_xet")
HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]


def find_checkpoint(spec: str) -> Path:
    """The folder of a MODEL: a checkpoint, `RUN`, `RUN@best`, `RUN@step-400`, a model folder or a Hub id.

    Raises:
        CheckpointError: the model does not exist, or its files are damaged.
    """
    name, selector = runs.split_spec(spec)
    path = Path(name)
    if runs.is_run(path):
        return _verified(runs.Run(path).checkpoint(selector))
    if selector is not None:
        raise CheckpointError(f"{name} is not a run, so {spec} does not exist{nearest_models(path)}")
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return _verified(path)
    if path.is_dir():
        raise CheckpointError(f"{spec} is not a model: it has neither config.json nor checkpoints/")
    if path.exists():
        raise CheckpointError(f"{spec} is a file; a model is a folder")
    if not is_hub_id(name):
        raise CheckpointError(f"there is no folder {spec}{nearest_models(path)}")
    return _from_hub(name)


def relocations(recorded: str, folder: Path) -> Iterator[Path]:
    """Model folders that `recorded` may be now, if it moved together with `folder`; the longest common path first.

    For `/old/runs/one/checkpoints/step-30` and a folder in `/new/runs/two`: `/new/runs/one/checkpoints/step-30`.
    """
    parts = Path(recorded).parts[1:] if Path(recorded).is_absolute() else ()
    for first in range(len(parts)):
        for above in folder.resolve().parents:
            candidate = above.joinpath(*parts[first:])
            if (candidate / "config.json").is_file():
                yield _verified(candidate)


def relocation_hint(recorded: str, folder: Path) -> str:
    """What to do when an adapter's base is missing. A checkpoint's files have checksums and must not be edited."""
    parts = Path(recorded).parts
    if not Path(recorded).is_absolute():
        return ""
    if not (folder / runs.MARKER).is_file():
        return f"; write its new path into {folder / 'adapter_config.json'} (base_model_name_or_path)"
    tail = parts[-3:] if parts[-2:-1] == ("checkpoints",) else parts[-1:]
    return f"; move it, or a link to it, there or to {folder.resolve().parents[2].joinpath(*tail)}"


def is_hub_id(name: str) -> bool:
    """Whether a name can be a Hub id: it is spelled like one and is not a path here."""
    path = Path(name)
    if path.exists() or name.startswith("runs/") or HUB_ID.fullmatch(name) is None:
        return False
    # A misspelled run must not be looked up on the Hub, so a name beside runs is a path.
    return len(path.parts) == 1 or not any(runs.is_run(sibling) for sibling in _siblings(path))


def nearest_models(path: Path, cutoff: float = 0.0) -> str:
    """A hint with the runs and models beside a path that have the most similar names; empty if there are none."""
    known = [
        folder for folder in _siblings(path) if runs.is_run(folder) or (folder / "config.json").is_file()
    ]
    return nearest(path, known, cutoff)


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _verified(folder: Path) -> Path:
    """The folder, after a check of its model files' checksums if it is a checkpoint of ours."""
    if (folder / runs.MARKER).is_file() and (damage := runs.damage(folder, besides="trainer/")) is not None:
        raise CheckpointError(f"{folder} is damaged: {damage}; use another checkpoint of its run")
    return folder


def _from_hub(name: str) -> Path:
    """A Hub repository's local copy, downloaded if necessary; `.bin` weights only if there are no others."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"]))
    except Exception as error:
        # Each version of the client raises its own HTTP library's errors, so no list of types is complete.
        if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith(LIBRARIES)):
            raise
        raise CheckpointError(
            f"{name}: no folder here{nearest_models(Path(name), 0.6)}, and {explain_error(error, name, 'model')}"
        ) from None
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(f"{name} on the Hugging Face Hub is not a model: it has no config.json")
    return folder
