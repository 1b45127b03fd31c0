"""gptworks runs where Linux's own modules, functions and files are missing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.e2e
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_everything_imports_and_trains_without_what_linux_alone_has(platform, tmp_path, repository):
    command = [sys.executable, "-m", "tests.other_platform", platform, tmp_path]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "report.html").is_file()
