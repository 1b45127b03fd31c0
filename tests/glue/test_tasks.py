"""Facts of the tasks, compared with each other and with the real files, if present."""

import pytest

from gptworks.errors import ConfigError
from gptworks.glue import tasks
from gptworks.glue.data import GlueSource
from gptworks.glue.tasks import SUBMISSION, TASKS

SERVER = {
    "CoLA": 1063,
    "STS-B": 1379,
    "SST-2": 1821,
    "WNLI": 146,
    "RTE": 3000,
    "QNLI": 5463,
    "MRPC": 1725,
    "QQP": 390_965,
    "MNLI-m": 9796,
    "MNLI-mm": 9847,
    "AX": 1104,
}
"""What GluePT asserts before it submits."""


def test_the_server_gets_eleven_files_of_the_numbers_of_rows_that_it_wants():
    assert {name.removesuffix(".tsv"): part.rows for name, (_, part) in SUBMISSION.items()} == SERVER


def test_the_profile_is_table_4_6_of_the_thesis():
    table = {
        name: (p.epochs, p.n_seeds, p.eval_every) for name, p in ((t.name, t.profile) for t in TASKS.values())
    }
    assert table == {
        "cola": (3, 7, 50),
        "stsb": (3, 5, 50),
        "sst2": (3, 2, 50),
        "wnli": (6, 10, 5),
        "rte": (3, 10, 50),
        "qnli": (2, 1, 50),
        "mrpc": (3, 3, 50),
        "qqp": (1, 1, 500),
        "mnli": (1, 1, 500),
    }
    assert sum(tries for _, tries, _ in table.values()) == 40
    assert {t.name for t in TASKS.values() if t.profile.dropout} == {"wnli"}


def test_names_are_read_as_people_write_them():
    assert [task.name for task in tasks.choose(["CoLA", "sst-2", "sts_b"])] == ["cola", "sst2", "stsb"]
    assert len(tasks.choose(["all"])) == 9


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["coala"], "coala: .*cola, sst2"),
        (["rte", "RTE"], "names rte twice"),
        (["ax"], "comes with mnli"),
        (["rte,wnli"], "--tasks rte wnli$"),
    ],
)
def test_names_that_are_none(names, words):
    with pytest.raises(ConfigError, match=words):
        tasks.choose(names)


def test_the_official_download_has_these_rows_words_and_majorities(shared_data, tmp_path):
    """Of the tasks that are here whole: every file is read, its rows and words checked by the reader itself."""
    here = tasks.choose(["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
    source = GlueSource(str(shared_data / "glue"), tmp_path)
    source.check(here)
    for task in here:
        labels = [one.label for one in source.rows(task, task.train)]
        if task.labels:
            assert max(task.labels, key=labels.count) == task.majority
        else:
            assert sum(map(float, labels)) / len(labels) == pytest.approx(task.majority, abs=0.001)
    ax = TASKS["mnli"].tests[-1]
    assert len(list(source.rows(TASKS["mnli"], ax))) == ax.rows
