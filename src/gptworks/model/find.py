"""What MODEL means on a command line: one function, and nothing is guessed."""

import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download

from gptworks import runs
from gptworks.errors import CheckpointError
from gptworks.hub import meaning
from gptworks.wording import nearest

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
LIBRARIES = ("huggingface_hub", "httpx", "requests", "hf_xet")
HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]


def resolve(spec: str) -> Path:
    """The folder of a MODEL: a checkpoint, `RUN`, `RUN@best`, `RUN@step-400`, a model folder or a Hub id.

    Raises:
        CheckpointError: there is no such model; the message says what was looked for.
    """
    name, which = runs.split_spec(spec)
    path = Path(name)
    if runs.is_run(path):
        return _whole(runs.find_checkpoint(path, which))
    if which is not None:
        raise CheckpointError(f"{name} is not a run, so {spec} does not exist{near(path)}")
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return _whole(path)
    if path.is_dir():
        raise CheckpointError(f"{spec} is no model: it has neither config.json nor checkpoints/")
    if path.exists():
        raise CheckpointError(f"{spec} is a file; a model is a folder")
    if not is_hub_id(name):
        raise CheckpointError(f"there is no folder {spec}{near(path)}")
    return _from_hub(name)


def elsewhere(recorded: str, folder: Path) -> Iterator[Path]:
    """Model folders where one may lie now that a folder which moved along with it recorded: the fullest path first.

    Of `/old/runs/one/checkpoints/step-30`, to a folder in `/new/runs/two`, `/new/runs/one/checkpoints/step-30`.
    """
    parts = Path(recorded).parts[1:] if Path(recorded).is_absolute() else ()
    for first in range(len(parts)):
        for above in folder.resolve().parents:
            place = above.joinpath(*parts[first:])
            if (place / "config.json").is_file():
                yield _whole(place)


def way_back(recorded: str, folder: Path) -> str:
    """What to do about an adapter's base that has gone. Files with checksums are not for editing."""
    parts = Path(recorded).parts
    if not Path(recorded).is_absolute():
        return ""
    if not (folder / runs.MARKER).is_file():
        return f"; write its new place into {folder / 'adapter_config.json'} (base_model_name_or_path)"
    tail = parts[-3:] if parts[-2:-1] == ("checkpoints",) else parts[-1:]
    return f"; put it, or a link to it, there or at {folder.resolve().parents[2].joinpath(*tail)}"


def is_hub_id(name: str) -> bool:
    """Whether a name is meant of the Hub: it is written like an id, and it leads to nothing here."""
    path = Path(name)
    here = path.exists() or name.startswith("runs/") or _among_runs(path)
    return HUB_ID.fullmatch(name) is not None and not here


def _among_runs(path: Path) -> bool:
    """Whether a path leads into a folder of runs: no owner on the Hub is meant then."""
    return len(path.parts) > 1 and any(runs.is_run(one) for one in _beside(path))


def near(path: Path, least: float = 0.0) -> str:
    """The runs and models beside a path that are named most like it, if any is at `least` as much."""
    have = [one for one in _beside(path) if runs.is_run(one) or (one / "config.json").is_file()]
    return nearest(path, have, least)


def _beside(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _whole(folder: Path) -> Path:
    """A checkpoint whose model files are those that were written; other folders have no checksums to go by."""
    if (folder / runs.MARKER).is_file() and (wrong := runs.damage(folder, besides="trainer/")) is not None:
        raise CheckpointError(f"{folder} is damaged: {wrong}; take another checkpoint of its run")
    return folder


def _from_hub(name: str) -> Path:
    """A Hub repository's local copy, downloaded if need be; `.bin` weights only if there are no others."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, "pytorch_model*.bin"]))
    except Exception as error:
        # Each version of the client lets its own HTTP library's errors through, so no list of types is complete.
        if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith(LIBRARIES)):
            raise
        raise CheckpointError(
            f"{name}: no folder here{near(Path(name), 0.6)}, and {meaning(error, name, 'model')}"
        ) from None
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(f"{name} on the Hugging Face Hub is no model: it has no config.json")
    return folder
