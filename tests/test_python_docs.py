"""The examples of the guide to the Python API run, and so do the notebooks, whose saved outputs are whole."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import gptworks

NOTEBOOKS = ["first-hour", "your-own-task"]


def write_examples(folder):
    (folder / "texts").mkdir()
    for n, path in enumerate(sorted(Path(gptworks.__file__).parent.rglob("*.py"))[::4]):
        (folder / "texts" / f"{n:02}.txt").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    kinds = {"spam": "win a prize now!!!", "ham": "see you at five"}
    rows = [f"{label}\t{text} {n}\n" for n in range(40) for label, text in kinds.items()]
    (folder / "messages.tsv").write_text("".join(rows))
    counting = [
        {"instruction": f"Name the number after {n}.", "input": "", "output": str(n + 1)} for n in range(90)
    ]
    (folder / "alpaca.json").write_text(json.dumps(counting))


@pytest.mark.e2e
def test_the_python_examples_run(repository, tmp_path, monkeypatch):
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # an example sets it; this restores it
    text = (repository / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict[str, Any] = {"__name__": "guide"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), namespace)
    assert namespace["limited"].finished
    assert namespace["ids"][0].tolist() == [3, 1, 4, 10, 3, 1, 4]


@pytest.mark.e2e
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(repository, tmp_path, monkeypatch, name):
    nbformat = pytest.importorskip("nbformat", reason="the notebook extra is not installed")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    paths = [str(Path(gptworks.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, paths))
    )  # the kernel runs in another folder
    notebook = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
    saved = [output_kinds(cell) for cell in notebook.cells]
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert [output_kinds(cell) for cell in notebook.cells] == saved


def output_kinds(cell):
    """The type of each output of a cell, and its MIME types."""
    return [
        (output["output_type"], sorted(output.get("data", {})))
        for output in cell.get("outputs", [])
        if output.get("name") != "stderr"
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_saved_with_its_outputs_and_without_traces_of_a_machine(repository, name):
    text = (repository / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    assert not any(cell["metadata"] for cell in notebook["cells"])
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
