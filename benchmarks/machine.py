"""What every result records: machine, versions, commit and date. Also writes the result files."""

import datetime
import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def facts() -> dict[str, Any]:
    """Date, commit, machine and versions."""
    import torch

    from gptworks.devices import default_device, describe, fast_dtype

    device = default_device()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": describe(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "fast_dtype": fast_dtype(device),
        "python": platform.python_version(),
        "versions": {
            name: _version(name)
            for name in ("torch", "transformers", "tokenizers", "tiktoken", "datasets", "lm_eval")
        },
    }


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a dated JSON file; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"benchmark": name} | facts() | result
    slug = re.sub(
        r"[^a-z0-9]+",
        "-",
        record["processor"].lower() if record["device"].endswith(")") else record["device"].lower(),
    )
    file = folder / f"{record['date'][:10]}-{name}-{slug.strip('-')}.json"
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return file


def _commit() -> str | None:
    """The commit, with a plus if there are uncommitted changes; None outside a git repository."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain") else "") if commit else None
    except FileNotFoundError:  # no git
        return None


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
