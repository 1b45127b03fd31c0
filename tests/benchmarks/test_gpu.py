import ast
import json
import os
import re
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement


def listed(script: str) -> tuple[list[str], list[str]]:
    """The packages that the script's header says the machine has, and those that come as wheels."""
    (machine,) = re.findall(r"^#   (torch .*)$", script, re.MULTILINE)
    (wheels,) = re.findall(r"^#     .* -d \.whl (.*)$", script, re.MULTILINE)
    return machine.split(), wheels.split()


def needs(name: str, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a package depends on directly, each with the extras it is asked for with."""
    for line in distribution(name).requires or ():
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need.name, tuple(sorted(need.extras))


def with_needs(names: list[str]) -> set[str]:
    waiting, seen = [(name, ()) for name in names], set()
    while waiting:
        if (one := waiting.pop()) not in seen:
            seen.add(one)
            waiting += needs(*one)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def bare(repository, tmp_path_factory) -> Path:
    """A Python with links to what the script's header lists, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    machine, wheels = listed((repository / "benchmarks" / "gpu.sh").read_text())
    for name in with_needs(machine) | set(wheels):
        package = distribution(name)
        for part in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(package.locate_file(part))))
    return folder / "bin" / "python"


def imports(file: Path) -> list[str]:
    """Every import statement of a benchmark and of the modules beside it that it imports, also inside functions."""
    found, waiting, seen = [], [file], set()
    while waiting:
        seen.add(file := waiting.pop())
        nodes = ast.walk(ast.parse(file.read_text()))
        lines = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        found += lines
        beside = {file.with_name(f"{line.split()[1]}.py") for line in lines}
        waiting += [other for other in beside - seen if other.is_file()]
    return found


def run(bare: Path, repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In the repository's root, as the script does."""
    environment = os.environ | {"PYTHONPATH": "src:.:benchmarks", "OMP_NUM_THREADS": "1"}
    command = [str(bare), *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=repository, check=False
    )


def test_benchmarks_import_only_what_the_script_lists(bare, repository):
    script = (repository / "benchmarks" / "gpu.sh").read_text()
    files = {repository / "benchmarks" / name for name in re.findall(r"benchmarks/(\w+\.py)", script)}
    lines = {line for file in files for line in imports(file)}
    assert "from transformers import GPT2Config, GPT2LMHeadModel" in lines  # inside a function of loops.py
    done = run(bare, repository, "-c", "\n".join(sorted(lines)))
    assert done.returncode == 0, done.stderr


def test_gpu_tests_import_only_what_the_script_lists(bare, repository):
    """Nor are there tests for a GPU elsewhere, which the script would not run."""
    pytest_words = ["-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
    done = run(bare, repository, *pytest_words, "-m", "gpu", "--collect-only", "tests/gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = (file for file in (repository / "tests").rglob("*.py") if file.parent.name != "gpu")
    assert not [file for file in elsewhere if re.search(r"\bmark\.gpu\b", file.read_text())]


def test_nothing_else_is_there_to_import(bare, repository):
    assert "No module named 'openai'" in run(bare, repository, "-c", "import openai").stderr


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the script is run in earnest")
def test_the_gpu_script_runs_dry(bare, repository, tmp_path):
    if (repository / ".whl").exists():
        pytest.skip("the wheels in .whl are for another Python")
    environment = os.environ | {
        "GPU_SH_DRY": "1",
        "PYTHON": str(bare),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": "",
    }
    script = ["bash", str(repository / "benchmarks" / "gpu.sh"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {json.loads(file.read_text())["benchmark"] for file in tmp_path.glob("*.json")}
    assert kinds == {"train-small", "train-medium", "train-xl", "generate", "kernels"}
    assert "all parts passed" in (tmp_path / "log.txt").read_text()
