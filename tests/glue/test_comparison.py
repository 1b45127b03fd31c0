import dataclasses

import pytest

from gptworks.errors import ConfigError
from gptworks.glue import comparison, records, table
from gptworks.glue.records import GlueModel
from tests.glue.campaigns import checkpoint, make


def test_each_model_stands_over_the_line_it_is_like(tmp_path):
    scores = {"cola": 0.405, "stsb": 0.866, "mnli": 0.8}
    subjects = [checkpoint(0.5), checkpoint(1.0), GlueModel("gpt2", "gpt2")]
    campaign = make(
        tmp_path / "c", subjects, tuple(scores), predict=False, score=lambda s, task, *_: scores[task]
    )
    head, _, *lines = comparison.table(campaign).split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert head == "| model | CoLA | STS-B | MNLI |"
    assert rows[:7] == [
        ["small-step-000500", "40.5", "86.6/86.6", "80.0/80.0"],  # the thesis has none of half an epoch
        ["small-step-001000", "40.5", "86.6/86.6", "80.0/80.0"],
        ["GluePT small, 1 epoch", "39.0", "86.0", "79.0"],
        ["*difference*", "+1.5", "(+0.6)", "(+1.0)"],
        ["gpt2", "40.5", "86.6/86.6", "80.0/80.0"],
        ["GPT-2 124M, GluePT's way", "38.0", "87.5", "80.5"],
        ["*difference*", "+2.5", "(-0.9)", "(-0.5)"],
    ]
    assert {row[0] for row in rows[7:]} == {
        "GluePT small, untrained", "GluePT small, 15 epochs", "GluePT large, 6 epochs", "GPT-2 355M, GluePT's way"
    }  # fmt: skip


def test_an_empty_campaign_is_refused(tmp_path):
    records.write_grid(tmp_path, records.Grid((checkpoint(1.0),), ("wnli",), {"wnli": 1}))
    with pytest.raises(ConfigError, match="no finished cell"):
        comparison.table(tmp_path)


def test_a_table_says_what_was_learned_from_less(tmp_path):
    subject = checkpoint(1.0)
    campaign = make(tmp_path / "c", [subject], ("rte", "wnli"), predict=False, tries=1)
    assert table.reduced(records.results(campaign).values()) == ""
    cell = records.cell(campaign, subject.name, "rte")
    result = records.read_result(cell)
    assert result is not None
    records.write_result(cell, dataclasses.replace(result, n_train=100, epochs=0.5))
    note = "RTE (100 of 2,490 rows, 0.5 of 3 epochs)"
    assert note in table.draw(campaign)
    assert note in comparison.table(campaign)


def test_a_table_of_one_try_speaks_of_no_others(tmp_path):
    once = table.draw(make(tmp_path / "one", [checkpoint(1.0)], ("wnli",), predict=False, tries=1))
    thrice = table.draw(make(tmp_path / "three", [checkpoint(1.0)], ("wnli",), predict=False))
    assert table.ONE_TRY in once
    assert table.SEVERAL_TRIES not in once
    assert table.SEVERAL_TRIES in thrice
    assert table.ONE_TRY not in thrice
