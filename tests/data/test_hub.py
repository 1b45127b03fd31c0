"""hf: sources, from a Hub of our own on the loopback interface, whose address is fixed at import: a process a test."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import hub

CARD = """---
configs:
- config_name: sample
  data_files:
  - split: train
    path: sample/train-*
- config_name: body
  data_files:
  - split: train
    path: body/train-*
---
"""

SCRIPT = """
import json, sys
from pathlib import Path
from gptworks.data import hub, work_units
from gptworks.data.dataset import Dataset
from gptworks.data.prepare import prepare
from gptworks.errors import UserError
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

work_units.UNIT_BYTES, hub.ROWS = 400, 5
tokenizer = Tokenizer.load("tokenizer")

class Interrupted(BaseException):
    pass

def run(out, stop_after=0, **options):
    n = 0
    def report(progress):
        nonlocal n
        n += 1
        if n == stop_after:
            raise Interrupted
    try:
        dataset = prepare(PrepareOptions(**{"workers": 1, "val_fraction": 0, **options}), tokenizer, Path(out), report)
    except Interrupted:
        return "interrupted"
    except UserError as error:
        return str(error)
    split = dataset.split("train")
    ends = split.shards[0].ends.tolist()
    documents = [split.shards[0].tokens[a:b - 1] for a, b in zip([0, *ends], ends)]
    return [dataset.fingerprint, [tokenizer.decode(ids) for ids in documents]]
"""


def texts(shard: int) -> list[str]:
    return [f"document {shard} {row} " + "word " * (row % 20) for row in range(60)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "datasets" / "someone" / "texts"
    (folder / "sample").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for shard in range(2):
        sets = [{"pile_set_name": "AB"[row % 2]} for row in range(60)]
        table = pa.table({"id": list(range(60)), "text": texts(shard), "meta": sets})
        pq.write_table(table, folder / "sample" / f"train-{shard:05d}-of-00002.parquet", row_group_size=25)
    (folder / "body").mkdir()
    pq.write_table(pa.table({"body": ["a text"]}), folder / "body" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def endpoint(repository, tmp_path) -> Iterator[str]:
    with hub.serve(tmp_path / "hub") as address:
        yield address


def in_child(endpoint: str, home: Path, code: str) -> list:
    """What `code`, run after SCRIPT, prints, a JSON value a line."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env=hub.environment(endpoint, home) | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_dataset_is_streamed_and_goes_on_in_the_middle(endpoint, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    straight, stopped, sizes, resumed, sets, cut = in_child(
        endpoint,
        tmp_path,
        """
source = ("hf:someone/texts:sample",)
print(json.dumps(run("straight", sources=source)))
print(json.dumps(run("stopped", 6, sources=source)))
rows, real = [], hub.batches
def counted(*arguments):
    for documents, state in real(*arguments):
        rows.append(len(documents))
        yield documents, state
hub.batches = counted
print(json.dumps(len(list(Path("stopped/unfinished").glob("*.part")))))
print(json.dumps([run("stopped", sources=source), sum(rows)]))
print(json.dumps(run("sets", sources=source, subsets=("B",))))
print(json.dumps(run("limit", sources=source, limit=7)))
""",
    )
    expected = texts(0) + texts(1)
    assert straight[1] == expected
    assert stopped == "interrupted"
    assert sizes == 6
    assert resumed[0] == straight
    assert 0 < resumed[1] < len(expected)  # rows of the stream read again
    assert sets[1] == expected[1::2]
    assert cut[1] == expected[:7]


def test_what_the_hub_does_not_have(endpoint, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    said = in_child(
        endpoint,
        tmp_path,
        """
print(json.dumps(run("out", sources=("hf:someone/nothing",))))
print(json.dumps(run("out", sources=("hf:someone/texts:other",))))
print(json.dumps(run("out", sources=("hf:someone/texts:sample",), split="val")))
print(json.dumps(run("out", sources=("hf:someone/texts:body",))))
print(json.dumps(Path("out").exists()))
""",
    )
    assert said[0].startswith(
        "hf:someone/nothing (split train): there is no such dataset on the Hugging Face Hub"
    )
    assert said[1].startswith(
        "hf:someone/texts:other (split train): BuilderConfig 'other' not found. Available: ["
    )
    assert said[2] == "hf:someone/texts:sample (split val): Bad split: val. Available splits: ['train']"
    assert said[3].startswith("hf:someone/texts has no column 'text' (it has body)")
    assert "--text-key" in said[3]
    assert said[4] is False


def test_nobody_answers(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    with hub.serve(tmp_path) as endpoint:
        pass
    code = 'print(json.dumps(run("out", sources=("hf:someone/texts",))))'
    (said,) = in_child(endpoint, tmp_path, code)
    assert said.startswith("hf:someone/texts (split train): the Hub cannot be reached (")
    assert "refused" in said


CONVERSATIONS = """
from gptworks.data.conversations import load
from gptworks.recipe import InstructOptions

def read(name, **options):
    try:
        found = load(Path(name), InstructOptions(**options))
    except UserError as error:
        return str(error)
    texts = {split: [[m.content for m in one] for one in kept] for split, kept in found.splits.items()}
    return {"splits": texts, "kind": found.kind, "remarks": found.remarks}

print(json.dumps(read("hf:someone/alpaca")))
print(json.dumps(read("hf:someone/alpaca", limit=3, val_fraction=0, test_fraction=0)))
print(json.dumps(read("hf:someone/chats")))
print(json.dumps(read("hf:someone/nothing")))
print(json.dumps(read("hf:someone/texts:body")))
"""


def test_conversations_come_from_the_hub_in_both_shapes_with_their_splits(
    repository, endpoint, tokenizer, tmp_path
):
    tokenizer.save(tmp_path / "tokenizer")
    alpaca, chats = (repository.parent / name / "data" for name in ("alpaca", "chats"))
    for folder in (alpaca, chats):
        folder.mkdir(parents=True)
    rows = [{"instruction": f"do {n}", "input": "", "output": f"done {n}", "text": "x"} for n in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), alpaca / "train-00000-of-00001.parquet")
    for split, n in (("train", 5), ("test", 2)):
        said = [
            {
                "messages": [
                    {"role": "user", "content": f"{split} {i}"},
                    {"role": "assistant", "content": "yes"},
                ]
            }
            for i in range(n)
        ]
        pq.write_table(pa.Table.from_pylist(said), chats / f"{split}-00000-of-00001.parquet")
    whole, first, turns, absent, other = in_child(endpoint, tmp_path, CONVERSATIONS)
    assert sum(map(len, whole["splits"].values())) == 300
    assert sorted(whole["splits"]["train"] + whole["splits"]["val"] + whole["splits"]["test"]) == sorted(
        [row["instruction"], row["output"]] for row in rows
    )
    assert first["splits"]["train"] == [[f"do {n}", f"done {n}"] for n in range(3)]
    assert turns["kind"] == "conversations in messages"
    assert sorted(turns["splits"]["test"]) == [["test 0", "yes"], ["test 1", "yes"]]
    assert len(turns["splits"]["train"]) + len(turns["splits"]["val"]) == 5
    assert absent.startswith("hf:someone/nothing: ")
    assert other.startswith("hf:someone/texts:body (split train) has the columns body; ")
