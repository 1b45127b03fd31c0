"""The guide to the Python API runs from top to bottom, and so do the notebooks."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


def test_the_guide_to_python_runs(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for number in range(12):
        Path(f"texts/{number}.txt").write_text(
            f"the cat number {number} sat on the mat. once upon a time. " * 60
        )
    rows = [
        f"{label},{text} {number}"
        for number in range(30)
        for label, text in (("spam", "win"), ("ham", "see you"))
    ]
    Path("messages.csv").write_text("\n".join(["label,text", *rows]) + "\n")
    asked = [
        {"instruction": f"Name the number after {n}.", "input": "", "output": str(n + 1)} for n in range(60)
    ]
    Path("alpaca.json").write_text(json.dumps(asked))
    text = (repository / "docs" / "python.md").read_text()
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert len(blocks) > 8
    losses = names["losses"]
    assert losses[-1] < 0.5 * losses[0]  # digits are reversed: far below the 2.3 nats of guessing


@pytest.mark.parametrize("name", ["first-hour", "your-own-task"])
def test_a_notebook_runs_and_is_saved_with_its_pictures(repository, tmp_path, name):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
    saved = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in saved)
    assert not [output for output in saved if output.output_type == "error"]
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
