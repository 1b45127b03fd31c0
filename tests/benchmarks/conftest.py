"""Benchmarks are run as people run them: at a tiny size, through their command lines."""

import json
import os
import subprocess
import sys

import pytest

from tests.texts import write_texts

FACTS = {"benchmark", "date", "commit", "device", "processor", "cores", "threads", "fast_dtype", "versions"}


@pytest.fixture
def benchmark(repository, tmp_path):
    """Run a benchmark; the result it wrote."""

    def run(name: str, *words: str) -> dict:
        command = [
            sys.executable,
            str(repository / "benchmarks" / name),
            *words,
            "--out",
            str(tmp_path / "out"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        paths = [str(repository / "src"), str(tmp_path), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = (tmp_path / "out").glob("*.json")
        result = json.loads(file.read_text())
        assert result.keys() >= FACTS
        assert str(file) in done.stdout
        return result

    return run


@pytest.fixture
def corpus(tmp_path):
    """A file of 200 short documents."""
    return write_texts(tmp_path / "docs.jsonl", 200)
