import zipfile

import pytest

from gptworks.errors import ConfigError, DataError
from gptworks.glue import records, submission
from gptworks.glue.check import check
from gptworks.glue.records import GlueModel
from gptworks.glue.tasks import SUBMISSION, TASKS
from tests.glue.campaigns import answer, checkpoint, make

WORDS = {
    "acceptable": "1",
    "unacceptable": "0",
    "equivalent": "1",
    "not_equivalent": "0",
    "duplicate": "1",
    "not_duplicate": "0",
    "positive": "1",
    "negative": "0",
}
"""Classes whose words are numbers, by the benchmark's own files; WNLI's 1 is entailment."""


def tables(file):
    """Lines of each file, cut at tabs."""
    with zipfile.ZipFile(file) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert all(text.endswith("\n") and "\r" not in text for text in texts.values())
    return {name: [line.split("\t") for line in text[:-1].split("\n")] for name, text in texts.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A campaign with all nine tasks, and its submission."""
    folder = tmp_path_factory.mktemp("whole")
    campaign = make(folder / "campaign", [checkpoint(1.0)], tuple(TASKS), tries=1)
    return campaign, submission.write(campaign, folder / "submission.zip")


@pytest.fixture(scope="module")
def found(whole):
    return tables(whole[1].file)


def test_every_prediction_arrives_as_the_server_spells_it(found):
    assert sorted(found) == sorted(
        ["AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "MRPC.tsv", "QNLI.tsv", "QQP.tsv", "RTE.tsv", "SST-2.tsv",
         "STS-B.tsv", "WNLI.tsv"]
    )  # fmt: skip
    for name, (header, *rows) in found.items():
        task = SUBMISSION[name][0].name
        assert header == ["index", "prediction"]
        assert all(index == str(n) for n, (index, _) in enumerate(rows))
        for index, said in rows[:3000]:
            expected = answer(task, int(index))
            if task == "stsb":
                assert said == f"{expected:.3f}"
            elif task == "wnli":
                assert said == {"entailment": "1", "not_entailment": "0"}[expected]
            else:
                assert said == WORDS.get(expected, expected)


def test_row_counts_are_the_official_ones(found):
    counts = {name: len(rows) - 1 for name, rows in found.items()}
    assert counts == {"CoLA.tsv": 1063, "STS-B.tsv": 1379, "SST-2.tsv": 1821, "WNLI.tsv": 146, "RTE.tsv": 3000,
                      "QNLI.tsv": 5463, "MRPC.tsv": 1725, "QQP.tsv": 390965, "MNLI-m.tsv": 9796, "MNLI-mm.tsv": 9847,
                      "AX.tsv": 1104}  # fmt: skip


def test_a_submission_is_valid_and_names_nothing_as_filled(whole):
    assert check(whole[1].file) == []
    assert whole[1].filled == ()


def test_the_same_campaign_makes_the_same_bytes(whole, tmp_path):
    campaign, written = whole
    again = submission.write(campaign, tmp_path / "again.zip")
    assert again.file.read_bytes() == written.file.read_bytes()


def test_tasks_that_were_not_run_are_refused_or_filled_and_named(tmp_path):
    campaign = make(tmp_path / "campaign", [checkpoint(1.0)], ["cola", "mrpc", "rte", "wnli"], tries=1)
    out = tmp_path / "submission.zip"
    with pytest.raises(ConfigError, match=r"SST-2, STS-B, QQP, MNLI, QNLI.*--fill-majority"):
        submission.write(campaign, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign"]
    written = submission.write(campaign, out, fill_majority=True)
    assert [task.name for task in written.filled] == ["sst2", "stsb", "qqp", "mnli", "qnli"]
    assert (
        "SST-2 (1), STS-B (2.701), QQP (0), MNLI (entailment), QNLI (not_entailment)"
        in submission.warning(written.filled)
    )
    assert check(out) == []
    found = tables(out)
    assert {said for _, said in found["QQP.tsv"][1:]} == {"0"}
    assert {said for _, said in found["AX.tsv"][1:]} == {"entailment"}
    assert {said for _, said in found["STS-B.tsv"][1:]} == {"2.701"}
    assert {said for _, said in found["WNLI.tsv"][1:]} == {"0", "1"}


def test_the_longest_pretrained_checkpoint_is_submitted_unless_another_is_named(tmp_path):
    gpt2 = GlueModel("gpt2", "gpt2")
    subjects = [checkpoint(0.0), checkpoint(2.0), checkpoint(1.0), gpt2]
    campaign = make(tmp_path / "campaign", subjects, ["wnli"], tries=1)
    grid = records.read_grid(campaign)
    assert submission.choose(grid, None).epoch == 2.0
    assert submission.choose(grid, "gpt2").name == "gpt2"
    assert submission.choose(grid, "runs/small@step-1000").epoch == 1.0
    with pytest.raises(ConfigError, match=r"--subject gpt3: .* it has small-step-000000, .*gpt2"):
        submission.choose(grid, "gpt3")
    assert submission.choose(records.Grid((gpt2,), ("wnli",), {}), None) == gpt2


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("wnli/test.jsonl", '"entailment"', '"neutral"', "test.jsonl:2 has 'neutral'"),
        ("wnli/test.jsonl", '"entailment"', "1", "test.jsonl:2 has 1"),
        ("wnli/test.jsonl", '"label"', '"lable"', "test.jsonl:1 "),
        ("wnli/test.jsonl", '"index": 3', '"index": 4', "test.jsonl:4 has index 4"),
        ("wnli/test.jsonl", '{"index": 145', '{"ind', "test.jsonl:146 "),
        ("stsb/test.jsonl", '"value": 0.037', '"value": 5.037', "test.jsonl:2 has 5.037"),
        ("stsb/test.jsonl", '"value": 0.037', '"value": NaN', "test.jsonl:2 has nan"),
    ],
)
def test_damaged_predictions_are_refused_with_their_line(tmp_path, file, old, new, message):
    campaign = make(tmp_path / "campaign", [checkpoint(1.0)], ["wnli", "stsb"], tries=1)
    path = campaign / "cells" / "small-step-001000" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        submission.write(campaign, tmp_path / "s.zip", fill_majority=True)
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign"]


def test_what_is_no_campaign_and_what_is_no_zip_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"campaign\.json"):
        submission.write(tmp_path, tmp_path / "s.zip")
    campaign = make(tmp_path / "campaign", [checkpoint(1.0)], ["wnli"], tries=1)
    with pytest.raises(ConfigError, match=r"--out .*s\.zip"):
        submission.write(campaign, tmp_path / "s.tsv", fill_majority=True)
    empty = tmp_path / "empty"
    records.write_grid(empty, records.Grid((checkpoint(1.0),), ("wnli",), {"wnli": 1}))
    with pytest.raises(ConfigError, match="nothing to submit"):
        submission.write(empty, tmp_path / "s.zip", fill_majority=True)


def test_a_submission_that_fails_leaves_the_older_one(tmp_path):
    campaign = make(tmp_path / "campaign", [checkpoint(1.0)], ["wnli"], tries=1)
    out = tmp_path / "s.zip"
    submission.write(campaign, out, fill_majority=True)
    before = out.read_bytes()
    (campaign / "cells" / "small-step-001000" / "wnli" / "test.jsonl").write_text("")
    with pytest.raises(DataError):
        submission.write(campaign, out, fill_majority=True)
    assert out.read_bytes() == before
