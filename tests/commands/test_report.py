import subprocess
import sys

import pytest

from gptworks.cli import main
from tests.reports.conftest import logged

pytestmark = pytest.mark.e2e

__all__ = ["logged"]


def test_a_runs_page_and_pictures_are_written_into_the_run(logged, capsys):
    run = logged()
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    for name in ("loss-steps.svg", "loss-steps.png", "scaling.svg", "lr.png"):
        assert (run / "plots" / name).stat().st_size > 1000
    assert (run / "plots" / "lr.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_share_a_page_where_it_is_wanted(logged, tmp_path):
    out = tmp_path / "pages" / "both.html"
    assert main(["report", str(logged("a")), str(logged("b")), "--out", str(out)]) == 0
    assert "a · b" in out.read_text()
    assert (tmp_path / "pages" / "both-plots" / "loss-steps.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "report needs a run"),
        (["nowhere"], "nowhere"),
        (["first", "first"], "twice"),
        (["first", "--out", "."], "--out"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(logged, tmp_path, monkeypatch, capsys, argv, message):
    logged()
    monkeypatch.chdir(tmp_path)
    assert main(["report", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_report_needs_no_torch(logged):
    code = (
        f"import sys, gptworks.cli\nassert gptworks.cli.main(['report', {str(logged())!r}]) == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_folder_of_runs_names_those_in_it(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").touch()
    assert main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path / 'a'} {tmp_path / 'b'}" in capsys.readouterr().err
