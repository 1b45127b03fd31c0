"""gptworks as users get it: built, installed outside of the checkout, and run."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from gptworks import packaged

pytestmark = pytest.mark.e2e

PREPARED = ("build", "hatchling")


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """The wheel, built from the source distribution."""
    for name in PREPARED:
        pytest.importorskip(name)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, repository]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of an environment with only the wheel in it; dependencies are borrowed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    base = {"base": str(folder), "platbase": str(folder)}
    paths = {name: Path(sysconfig.get_path(name, "venv", base)) for name in ("purelib", "scripts")}
    python = paths["scripts"] / Path(sys.executable).name
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(pip, check=True, capture_output=True)
    (paths["purelib"] / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(command: str, *argv: str) -> str:
        line = [paths["scripts"] / command, *argv]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_a_wheel_has_every_file_of_the_package(repository, wheel):
    with zipfile.ZipFile(wheel) as archive:
        have = set(archive.namelist())
    source = repository / "src"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(source).as_posix() for path in files} <= have
    assert not [name for name in have if name.startswith("tests/")]


def test_an_installed_gptworks_lists_its_recipes_and_trains(installed, tmp_path):
    origin = installed(Path(sys.executable).name, "-c", "import gptworks; print(gptworks.__file__)").strip()
    assert "environment" in origin
    listed = installed("gptworks", "recipes").splitlines()
    assert [line.split()[0] for line in listed] == packaged.names()
    assert installed("gptworks", "recipes", "show", "quickstart") == packaged.find("quickstart").read_text()
    out = tmp_path / "quickstart"
    assert "gptworks generate" in installed("gptworks", "quickstart", "--minutes", "0.05", "--out", str(out))
    assert list((out / "run" / "checkpoints").glob("step-*"))
    installed("gptworks", "generate", str(out / "run"), "--prompt", "def ", "--max-tokens", "4")
