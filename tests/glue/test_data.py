"""GLUE's rows from official files with their quirks, and from a Hub on the loopback interface."""

import json
import subprocess
import sys

import pytest

from gptworks.errors import DataError
from gptworks.glue.data import GlueSource
from gptworks.glue.tasks import TASKS, choose
from tests import hub
from tests.glue import official


@pytest.fixture
def folder(tmp_path):
    return official.write(tmp_path / "glue")


def source(folder, tmp_path, *, official_rows=False):
    return GlueSource(str(folder), tmp_path / "copies", official_rows)


def test_every_task_s_rows_are_read_by_headings_and_words(folder, tmp_path):
    here = source(folder, tmp_path)
    here.check(choose(["all"]))
    for task in TASKS.values():
        training = here.training_data(task, None)
        train = training.examples.splits["train"]
        assert len(train) == 24
        names = task.labels or (0.0, 2.5, 4.75)
        assert [one.label for one in train[:6]] == [names[number % len(names)] for number in range(6)]
        assert all((one.text_pair is None) == (len(task.texts) == 1) for one in train)
        assert training.examples.labels == task.labels
        assert set(training.validation) == {part.name for part in task.validation}
        for part in task.tests:
            assert [one.label for one in here.rows(task, part)] == [""] * 24


def test_quotes_are_letters_and_ends_are_stripped(folder, tmp_path):
    file = folder / "SST-2" / "train.tsv"
    file.write_text('sentence\tlabel\n"uneasy and "stray \t1\nno quote after it \t0\r\n', encoding="utf-8")
    rows = list(source(folder, tmp_path).rows(TASKS["sst2"], TASKS["sst2"].train))
    assert [(one.text, one.label) for one in rows] == [
        ('"uneasy and "stray', "positive"),
        ("no quote after it", "negative"),
    ]


def test_rows_of_qqp_without_all_cells_are_left_out_as_the_hub_does(folder, tmp_path):
    file = folder / "QQP" / "train.tsv"
    file.write_text(file.read_text() + "\n99\tx\tx\tcut off", encoding="utf-8")
    assert len(list(source(folder, tmp_path).rows(TASKS["qqp"], TASKS["qqp"].train))) == 24


def test_a_part_of_training_is_its_first_rows_and_is_said(folder, tmp_path):
    training = source(folder, tmp_path).training_data(TASKS["rte"], 10)
    assert len(training.examples.splits["train"]) == 10
    assert len(training.examples.splits["val"]) == 24
    assert training.examples.remarks == ("trained on the first 10 of 2,490 rows",)


def broken(folder, change):
    file = folder / "RTE" / "dev.tsv"
    lines = file.read_text().split("\n")
    change(lines)
    file.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.__setitem__(0, "index\tsentence1\tlabel"), r"dev.tsv .*'sentence2'"),
        (lambda lines: lines.__setitem__(3, "2\ta\tb\tmaybe"), r"dev.tsv:4: .*'maybe'.* entailment"),
        (lambda lines: lines.__setitem__(3, "2\ta\tb\t1"), r"dev.tsv:4: .*'1'"),
        (lambda lines: lines.__setitem__(3, "2\ta\tb"), r"dev.tsv:4 .*3 cells.* 4 columns"),
        (lambda lines: lines.__setitem__(3, "2\ta\tb\tc\tentailment"), r"dev.tsv:4 .*5 cells"),
    ],
)
def test_files_that_are_wrong_are_named_with_the_line(folder, tmp_path, change, words):
    broken(folder, change)
    with pytest.raises(DataError, match=words):
        source(folder, tmp_path).check(choose(["rte"]))


def test_numbers_of_sts_b_have_a_range(folder, tmp_path):
    file = folder / "STS-B" / "train.tsv"
    text = file.read_text().splitlines()
    text[3] = text[3].rpartition("\t")[0] + "\t5.01"
    file.write_text("\n".join(text))
    with pytest.raises(DataError, match=r"train.tsv:4: .*'5.01'.* 0 to 5"):
        source(folder, tmp_path).check(choose(["stsb"]))


def test_missing_files_folders_and_rows(folder, tmp_path):
    with pytest.raises(DataError, match=r"train.tsv .*24 rows.* WNLI has 635.*--no-official-rows"):
        source(folder, tmp_path, official_rows=True).check(choose(["wnli"]))
    (folder / "RTE" / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"RTE/test.tsv is missing"):
        source(folder, tmp_path).check(choose(["rte"]))
    with pytest.raises(DataError, match=r"--data .*nowhere"):
        source(tmp_path / "nowhere", tmp_path).check(choose(["rte"]))


CARD = """---
configs:
- config_name: wnli
  data_files:
  - {split: train, path: wnli/train.parquet}
  - {split: validation, path: wnli/validation.parquet}
  - {split: test, path: wnli/test.parquet}
- config_name: bare
  data_files:
  - {split: train, path: bare/train.parquet}
---
"""

SCRIPT = """
import json, sys
from pathlib import Path
from gptworks.errors import UserError
from gptworks.glue.data import GlueSource
from gptworks.glue.tasks import TASKS, choose

def read(place, official_rows):
    source = GlueSource(place, Path(place.replace(":", "").replace("/", "-")), official_rows)
    try:
        source.check(choose(["wnli"]))
        training = source.training_data(TASKS["wnli"], None)
        test = list(source.rows(TASKS["wnli"], TASKS["wnli"].tests[0]))
        return [[vars(one) for one in part] for part in (training.examples.splits["train"], test)]
    except UserError as error:
        return str(error)

print(json.dumps([read(place, rows) for place, rows in json.loads(sys.argv[1])]))
"""


def on_hub(root, labels):
    """WNLI as nyu-mll/glue holds it: Parquet with classes by number, whose names are in the file."""
    import datasets

    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=labels),
            "idx": datasets.Value("int32"),
        }
    )
    folder = root / "wnli"
    folder.mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    for split in ("train", "validation", "test"):
        rows = [
            {
                "sentence1": f"{split} {n} ",
                "sentence2": "it",
                "label": -1 if split == "test" else n % 2,
                "idx": n,
            }
            for n in range(5)
        ]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")


def test_the_hub_s_labels_are_taken_by_name_and_its_rows_are_kept(tmp_path):
    """The second repository numbers its classes the other way round, the third names others."""
    root = tmp_path / "hub" / "datasets"
    on_hub(root / "nyu-mll/glue", ["not_entailment", "entailment"])
    on_hub(root / "some/turned", ["entailment", "not_entailment"])
    on_hub(root / "some/other", ["no", "yes"])
    asked = [
        ("hf", False),
        ("hf:some/turned", False),
        ("hf:some/other", False),
        ("hf", True),
        ("hf:some/none", False),
    ]
    with hub.serve(tmp_path / "hub") as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(asked)],
            env=hub.environment(endpoint, tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    first, turned, other, kept, none = json.loads(done.stdout)
    assert [one["label"] for one in first[0][:2]] == ["not_entailment", "entailment"]
    assert [one["label"] for one in turned[0][:2]] == ["entailment", "not_entailment"]
    assert first[0][0]["text"] == "train 0"
    assert [one["label"] for one in first[1]] == [""] * 5
    assert "'no'" in other
    assert "not_entailment, entailment" in other
    assert kept == first  # the copies are read, and were counted when they were made
    assert "some/none" in none
