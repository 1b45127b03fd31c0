"""`gptworks push` to a Hub on the loopback interface, in a process that knows no other."""

import getpass
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gptworks.cli import main
from gptworks.commands.push import _classifier_rows
from gptworks.model import checkpoint
from gptworks.text.tokenizer import Tokenizer
from tests import hub
from tests.hubwrites import TOKEN, Faults

pytestmark = pytest.mark.e2e

SCRIPT = """
import contextlib, io, json, os, sys
from gptworks.cli import main
from gptworks.exports import hub
hub.PAUSE = 0.01
answers = []
for words, token in json.load(sys.stdin):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["push", *words])
    answers.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, byte_tokenizer: Tokenizer) -> Path:
    """A run, with a score, in a folder whose name is nobody's business."""
    place = tmp_path_factory.mktemp("secret")
    (place / "texts").mkdir()
    (place / "texts" / "a.txt").write_text("The cat sat on the mat. " * 300)
    byte_tokenizer.save(place / "bytes")
    shape = "--model.n-layer 2 --model.n-head 2 --model.n-embd 64 --model.context 32"
    for words in (
        f"prepare --sources {place}/texts --tokenizer {place}/bytes --out {place}/set --val-fraction 0.1",
        f"pretrain --data {place}/set --out {place}/run {shape} --train.max-steps 3 --train.batch-tokens 64",
        f"evaluate {place}/run --tasks bits_per_byte:{place}/texts/a.txt --limit 3",
    ):
        assert main(words.split()) == 0
    return place / "run"


def push(tmp_path, requests, root=None, faults=None):
    """(status, stdout, stderr) of each (words, token)."""
    root = root or tmp_path / "hub"
    more = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": ":".join(sys.path)}
    with hub.serve(root, faults) as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], input=json.dumps(requests), capture_output=True, text=True,
            env=hub.environment(endpoint, tmp_path) | more, cwd=tmp_path, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_run_is_published_with_its_card(run, tmp_path):
    words = [str(run), "--repo", "you/small", "--private", "--license", "mit"]
    ((status, out, err),), _ = push(tmp_path, [(words, TOKEN)])
    assert (status, err) == (0, "")
    assert re.search(r"/you/small/commit/\w{40}$", out.strip())
    published, folder = tmp_path / "hub" / "models" / "you" / "small", checkpoint.find_checkpoint(str(run))
    own = sorted(file.name for file in folder.iterdir() if file.is_file())
    assert sorted(file.name for file in published.iterdir()) == sorted([*own, "README.md"])
    assert (published / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    card = (published / "README.md").read_text()
    assert "| steps | 3 |" in card
    assert "| tokens | 192, including repetitions |" in card
    assert re.search(
        r"\| bits_per_byte \| bits_per_byte \| [\d.]+ \| [\d.]+ to [\d.]+ \| \d+ \| a.txt \(first 3\) \|",
        card,
    )
    everything = b"".join(file.read_bytes() for file in published.iterdir())
    for private in (str(run.parent), run.parent.name, str(Path.home()) + "/", TOKEN):
        assert private.encode() not in everything
    assert not re.search(rf"\b({socket.gethostname()}|{getpass.getuser()})\b", card)
    facts = json.loads((tmp_path / "hub" / "you--small.json").read_text())
    assert facts["private"]
    _example_runs(card, tmp_path)


def _example_runs(card, tmp_path):
    """The code on the card, with transformers and the Hub alone."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert "gptworks" not in code
    with hub.serve(tmp_path / "hub") as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", "import sys\nsys.modules['gptworks'] = None\n" + code],
            capture_output=True, text=True, env=hub.environment(endpoint, tmp_path), check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Once upon a time")


def test_what_goes_wrong_is_said_in_a_line_or_tried_again(run, tmp_path):
    busy, commit = "/lfs/", "commit/main"
    faults = Faults(
        {
            "you/busy/preupload": [503],  # huggingface_hub asks again by itself
            f"you/busy/{commit}": [409, 429, 500],
            f"you/dead/{commit}": [500] * 9,
            f"you/cut/{commit}": [0, 0],
            "others/model/preupload": [403],
            "you/odd/preupload": [400],
        },
        {"Retry-After": "0"},
    )

    def words(repo, *more):
        return [str(run), "--repo", repo, *more]

    asked = [
        (words("you/busy"), TOKEN),
        (words("you/dead"), TOKEN),
        (words("you/cut"), TOKEN),
        (words("others/model"), TOKEN),
        (words("you/odd"), TOKEN),
        (words("you/new"), "hf_wrong"),
        (words("you/new"), None),
        (words("new"), TOKEN),
        (words("you/busy", "--private"), TOKEN),
        (words("you/dead"), TOKEN),
    ]
    answers, _ = push(tmp_path, asked, faults=faults)
    assert [status for status, _, _ in answers] == [0, 2, 0, 2, 2, 2, 2, 2, 2, 0]
    for (status, out, err), (_, token) in zip(answers, asked, strict=True):
        assert err.count("\n") == (1 if status else 0), err
        assert token is None or token not in out + err
    said = [out + err for _, out, err in answers]
    for status in (409, 429, 500):
        assert f"answers {status}; trying again" in said[0]
    assert "the Hub answers 500 after 5 attempts" in said[1]
    assert "cannot be reached" in said[2]
    assert "token write to others/model" in said[3]
    assert "the Hub refuses you/odd (400)" in said[4]
    assert "does not accept this token" in said[5]
    assert "set HF_TOKEN" in said[6]
    assert "--repo new" in said[7]
    assert "you/busy already exists and is public" in said[8]
    sent = [path for method, path in faults.asked if method == "PUT" and path.startswith(busy)]
    assert len(sent) == len(set(sent))  # nothing arrived twice: the second repository had it already
    assert not (tmp_path / "hub" / "models" / "you" / "new").exists()
    assert (tmp_path / "hub" / "models" / "you" / "dead" / "model.safetensors").is_file()


def test_the_card_can_be_read_before_anything_is_pushed(run, tmp_path, capsys):
    file = tmp_path / "card.md"
    assert main(["push", str(run), "--repo", "you/small", "--card-only", str(file)]) == 0
    assert "nothing was pushed" in capsys.readouterr().out
    assert file.read_text().startswith("---\n")
    assert main(["push", str(run), "--repo", "you/small", "--card-only", str(file)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_classifiers_scores_stand_beside_what_guessing_gets():
    told = {"n": 62, "checkpoint": "step-000028", "accuracy": 0.5, "macro_f1": 0.25, "matthews": 0.125}
    told["baselines"] = {"majority_accuracy": 0.48}
    rows = _classifier_rows({"data": "five.csv", "split": "val", "scores": {"last": told}}, "step-000028")
    values = {row["metric"]: row["value"] for row in rows}
    assert values == {"accuracy": 0.5, "f1_macro": 0.25, "matthews_correlation": 0.125}
    assert "most frequent class gets 0.48" in rows[0]["definition"]
    assert all("best checkpoint" in note for row in rows for note in row["notes"])
    assert all(row["notes"] for row in rows)


def test_a_card_alone_needs_no_repository_and_names_the_run(run, tmp_path, capsys):
    file = tmp_path / "card.md"
    assert main(["push", str(run), "--card-only", str(file)]) == 0
    assert f"# {run.name}\n" in file.read_text()
    capsys.readouterr()
    assert main(["push", str(run)]) == 2
    assert "--repo" in capsys.readouterr().err
