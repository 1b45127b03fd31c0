"""The facts of GLUE: nine tasks and a diagnostic set, with files, row counts, labels, metrics and submission format.

Wang et al. 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", table 1.
Files, row counts and column names are those of the official download and of `nyu-mll/glue` on the Hub; the training
profiles are table 4.6 of GluePT's thesis. No torch here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gptworks.errors import ConfigError
from gptworks.evaluation.glue import METRICS

LOWEST, HIGHEST = 0.0, 5.0
"""Range of STS-B's scores."""


@dataclass(frozen=True)
class Part:
    """A part of a task's rows: a file of the official download, or a split on the Hub."""

    name: str
    """train; val, or matched and mismatched; test, or test-matched, test-mismatched and ax."""
    file: str
    """Path inside the official download."""
    hub: tuple[str, str]
    """Configuration and split of nyu-mll/glue."""
    rows: int
    submission: str | None = None
    """Name of the submission file with its predictions; None if it is not a test set."""
    columns: tuple[str, ...] = ()
    """Column names of a file without a header."""


@dataclass(frozen=True)
class Profile:
    """The built-in recipe of a task, with the names of `[glue.TASK]`."""

    epochs: float
    n_seeds: int
    eval_every: int = 50
    """Steps between validations."""
    dropout: float = 0.0
    lr: float = 5e-5


@dataclass(frozen=True)
class GlueTask:
    """One of the nine tasks."""

    name: str
    """Name on the Hub: cola."""
    title: str
    """Name in the paper: CoLA."""
    train: Part
    validation: tuple[Part, ...]
    tests: tuple[Part, ...]
    majority: str | float
    """The most frequent class of the training rows, as in `labels` (of the validation rows for MNLI, whose training
    classes are balanced); the mean of the training scores for STS-B."""
    profile: Profile
    texts: tuple[str, ...] = ("sentence1", "sentence2")
    """The Hub's columns of the text, or of the two texts."""
    headings: tuple[str, ...] = ("sentence1", "sentence2", "label")
    """The official files' columns of the texts, then of the label."""
    labels: tuple[str, ...] = ("entailment", "not_entailment")
    """Class names in the order of the Hub's ids; empty for regression."""
    words: tuple[str, ...] = ("entailment", "not_entailment")
    """The same classes, as the official files and the server spell them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of its metrics; see evaluation/glue.py."""
        return METRICS[self.name]

    @property
    def regression(self) -> bool:
        """True if the task predicts a number."""
        return not self.labels

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts."""
        return (self.train, *self.validation, *self.tests)

    @property
    def word_of(self) -> dict[str, str]:
        """Class name -> the server's word."""
        return dict(zip(self.labels, self.words, strict=True))


def _three_files(name: str, title: str, rows: tuple[int, int, int], columns: tuple[str, ...] = ()) -> Any:
    """Name, title and parts of a task whose files are called train, dev and test."""
    train, dev, test = rows
    return {
        "name": name,
        "title": title,
        "train": Part("train", f"{title}/train.tsv", (name, "train"), train, columns=columns),
        "validation": (Part("val", f"{title}/dev.tsv", (name, "validation"), dev, columns=columns),),
        "tests": (Part("test", f"{title}/test.tsv", (name, "test"), test, f"{title}.tsv"),),
    }


BINARY = ("0", "1")

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            **_three_files("cola", "CoLA", (8_551, 1_043, 1_063), ("source", "label", "star", "sentence")),
            texts=("sentence",),
            headings=("sentence", "label"),
            labels=("unacceptable", "acceptable"),
            words=BINARY,
            majority="acceptable",
            profile=Profile(3, 7),
        ),
        GlueTask(
            **_three_files("sst2", "SST-2", (67_349, 872, 1_821)),
            texts=("sentence",),
            headings=("sentence", "label"),
            labels=("negative", "positive"),
            words=BINARY,
            majority="positive",
            profile=Profile(3, 2),
        ),
        GlueTask(
            **_three_files("mrpc", "MRPC", (3_668, 408, 1_725)),
            headings=("#1 String", "#2 String", "Quality"),
            labels=("not_equivalent", "equivalent"),
            words=BINARY,
            majority="equivalent",
            profile=Profile(3, 3),
        ),
        GlueTask(
            **_three_files("stsb", "STS-B", (5_749, 1_500, 1_379)),
            headings=("sentence1", "sentence2", "score"),
            labels=(),
            words=(),
            majority=2.701,
            profile=Profile(3, 5),
        ),
        GlueTask(
            **_three_files("qqp", "QQP", (363_846, 40_430, 390_965)),
            texts=("question1", "question2"),
            headings=("question1", "question2", "is_duplicate"),
            labels=("not_duplicate", "duplicate"),
            words=BINARY,
            majority="not_duplicate",
            profile=Profile(1, 1, 500),
        ),
        GlueTask(
            name="mnli",
            title="MNLI",
            texts=("premise", "hypothesis"),
            headings=("sentence1", "sentence2", "gold_label"),
            labels=("entailment", "neutral", "contradiction"),
            words=("entailment", "neutral", "contradiction"),
            majority="entailment",
            train=Part("train", "MNLI/train.tsv", ("mnli", "train"), 392_702),
            validation=(
                Part("matched", "MNLI/dev_matched.tsv", ("mnli", "validation_matched"), 9_815),
                Part("mismatched", "MNLI/dev_mismatched.tsv", ("mnli", "validation_mismatched"), 9_832),
            ),
            tests=(
                Part("test-matched", "MNLI/test_matched.tsv", ("mnli", "test_matched"), 9_796, "MNLI-m.tsv"),
                Part(
                    "test-mismatched",
                    "MNLI/test_mismatched.tsv",
                    ("mnli", "test_mismatched"),
                    9_847,
                    "MNLI-mm.tsv",
                ),
                Part("ax", "diagnostic/diagnostic.tsv", ("ax", "test"), 1_104, "AX.tsv"),
            ),
            profile=Profile(1, 1, 500),
        ),
        GlueTask(
            **_three_files("qnli", "QNLI", (104_743, 5_463, 5_463)),
            texts=("question", "sentence"),
            headings=("question", "sentence", "label"),
            majority="not_entailment",
            profile=Profile(2, 1),
        ),
        GlueTask(
            **_three_files("rte", "RTE", (2_490, 277, 3_000)), majority="entailment", profile=Profile(3, 10)
        ),
        GlueTask(
            **_three_files("wnli", "WNLI", (635, 71, 146)),
            labels=("not_entailment", "entailment"),
            words=BINARY,
            majority="not_entailment",
            profile=Profile(6, 10, 5, dropout=0.2),
        ),
    )
}
"""The nine tasks by name. AX is not a task of its own: MNLI's model predicts it."""

SUBMISSION: dict[str, tuple[GlueTask, Part]] = {
    part.submission: (task, part) for task in TASKS.values() for part in task.tests if part.submission
}
"""The eleven files of a submission, with the task and part whose predictions they hold."""


def choose(names: Iterable[str]) -> tuple[GlueTask, ...]:
    """The tasks with these names, in any spelling (cola, CoLA, sst-2); `all` stands for all nine.

    Raises:
        ConfigError: there is no such task, or it is named twice.
    """
    known = {_plain(name): task for task in TASKS.values() for name in (task.name, task.title)}
    chosen: list[GlueTask] = []
    for name in names:
        if name == "all":
            return tuple(TASKS.values())
        if "," in name:
            raise ConfigError(
                f"--tasks {name}: separate tasks by spaces: --tasks {' '.join(name.replace(',', ' ').split())}"
            )
        if _plain(name) == "ax":
            raise ConfigError("--tasks ax: the diagnostic set comes with mnli, whose model predicts it")
        if (task := known.get(_plain(name))) is None:
            raise ConfigError(f"--tasks {name}: GLUE has no such task; it has {', '.join(TASKS)}")
        if task in chosen:
            raise ConfigError(f"--tasks names {task.name} twice")
        chosen.append(task)
    return tuple(chosen)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
