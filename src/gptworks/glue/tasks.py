"""What GLUE is: nine tasks and a diagnostic, their files, rows, labels, metrics, and what the server wants.

Wang et al. 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", table 1.
Files, rows and headings are those of the official download and of the Hub's `nyu-mll/glue`; the profile is table 4.6 of
the thesis behind GluePT. No torch here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gptworks.errors import ConfigError
from gptworks.evaluate.glue import METRICS

LOWEST, HIGHEST = 0.0, 5.0
"""Of STS-B's numbers."""


@dataclass(frozen=True)
class Part:
    """Some rows of a task: a file of the official download, a split of the Hub's."""

    name: str
    """train; val, or matched and mismatched; test, or test-matched, test-mismatched and ax."""
    file: str
    """Within the folder of the official download."""
    hub: tuple[str, str]
    """Configuration and split of nyu-mll/glue."""
    rows: int
    submission: str | None = None
    """The TSV that its predictions become, where it is a test."""
    columns: tuple[str, ...] = ()
    """What a file without a heading holds."""


@dataclass(frozen=True)
class Profile:
    """How a task is learned, where nobody says otherwise."""

    epochs: float
    tries: int
    eval_every: int = 50
    """Steps between looks at validation."""
    dropout: float = 0.0
    lr: float = 5e-5


@dataclass(frozen=True)
class Task:
    """One of the nine."""

    name: str
    """As the Hub spells it: cola."""
    title: str
    """As people do: CoLA."""
    train: Part
    validation: tuple[Part, ...]
    tests: tuple[Part, ...]
    majority: str | float
    """The most frequent class, by its name in `labels`, in training's labels (MNLI: in validation's, where training is
    even); for STS-B training's mean."""
    profile: Profile
    texts: tuple[str, ...] = ("sentence1", "sentence2")
    """The Hub's columns of a text, or of two."""
    headings: tuple[str, ...] = ("sentence1", "sentence2", "label")
    """The official files' headings of the same; the last is the label's."""
    labels: tuple[str, ...] = ("entailment", "not_entailment")
    """Names of the classes in the order of the Hub's ids; none where a number is predicted."""
    words: tuple[str, ...] = ("entailment", "not_entailment")
    """The same classes as the official files and the server spell them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what it is scored by; see evaluate/glue.py."""
        return METRICS[self.name]

    @property
    def regression(self) -> bool:
        """Whether a number is predicted."""
        return not self.labels

    @property
    def parts(self) -> tuple[Part, ...]:
        """All rows there are."""
        return (self.train, *self.validation, *self.tests)

    @property
    def word_of(self) -> dict[str, str]:
        """The server's word for every class's name."""
        return dict(zip(self.labels, self.words, strict=True))


def _three(name: str, title: str, rows: tuple[int, int, int], columns: tuple[str, ...] = ()) -> Any:
    """Of a task whose three files are called train, dev and test: all that says where its rows are."""
    train, dev, test = rows
    return {
        "name": name,
        "title": title,
        "train": Part("train", f"{title}/train.tsv", (name, "train"), train, columns=columns),
        "validation": (Part("val", f"{title}/dev.tsv", (name, "validation"), dev, columns=columns),),
        "tests": (Part("test", f"{title}/test.tsv", (name, "test"), test, f"{title}.tsv"),),
    }


BINARY = ("0", "1")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            **_three("cola", "CoLA", (8_551, 1_043, 1_063), ("source", "label", "star", "sentence")),
            texts=("sentence",),
            headings=("sentence", "label"),
            labels=("unacceptable", "acceptable"),
            words=BINARY,
            majority="acceptable",
            profile=Profile(3, 7),
        ),
        Task(
            **_three("sst2", "SST-2", (67_349, 872, 1_821)),
            texts=("sentence",),
            headings=("sentence", "label"),
            labels=("negative", "positive"),
            words=BINARY,
            majority="positive",
            profile=Profile(3, 2),
        ),
        Task(
            **_three("mrpc", "MRPC", (3_668, 408, 1_725)),
            headings=("#1 String", "#2 String", "Quality"),
            labels=("not_equivalent", "equivalent"),
            words=BINARY,
            majority="equivalent",
            profile=Profile(3, 3),
        ),
        Task(
            **_three("stsb", "STS-B", (5_749, 1_500, 1_379)),
            headings=("sentence1", "sentence2", "score"),
            labels=(),
            words=(),
            majority=2.701,
            profile=Profile(3, 5),
        ),
        Task(
            **_three("qqp", "QQP", (363_846, 40_430, 390_965)),
            texts=("question1", "question2"),
            headings=("question1", "question2", "is_duplicate"),
            labels=("not_duplicate", "duplicate"),
            words=BINARY,
            majority="not_duplicate",
            profile=Profile(1, 1, 500),
        ),
        Task(
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
        Task(
            **_three("qnli", "QNLI", (104_743, 5_463, 5_463)),
            texts=("question", "sentence"),
            headings=("question", "sentence", "label"),
            majority="not_entailment",
            profile=Profile(2, 1),
        ),
        Task(**_three("rte", "RTE", (2_490, 277, 3_000)), majority="entailment", profile=Profile(3, 10)),
        Task(
            **_three("wnli", "WNLI", (635, 71, 146)),
            labels=("not_entailment", "entailment"),
            words=BINARY,
            majority="not_entailment",
            profile=Profile(6, 10, 5, dropout=0.2),
        ),
    )
}
"""The nine, by name. AX has no task of its own: it is read by MNLI's model."""

SUBMISSION: dict[str, tuple[Task, Part]] = {
    part.submission: (task, part) for task in TASKS.values() for part in task.tests if part.submission
}
"""The eleven files of a submission, each with the task and the rows whose predictions it holds."""


def choose(names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks of these names, however they are spelled (cola, CoLA, sst-2); `all` is all nine.

    Raises:
        ConfigError: there is no such task, or it is named twice.
    """
    known = {_plain(task.name): task for task in TASKS.values()} | {
        _plain(task.title): task for task in TASKS.values()
    }
    found: list[Task] = []
    for name in names:
        if name == "all":
            return tuple(TASKS.values())
        if "," in name:
            raise ConfigError(
                f"--tasks {name}: tasks are separated by spaces: --tasks {' '.join(name.replace(',', ' ').split())}"
            )
        if _plain(name) == "ax":
            raise ConfigError("--tasks ax: the diagnostic comes with mnli, whose model it is for")
        if (task := known.get(_plain(name))) is None:
            raise ConfigError(f"--tasks {name}: GLUE has no such task; it has {', '.join(TASKS)}")
        if task in found:
            raise ConfigError(f"--tasks names {task.name} twice")
        found.append(task)
    return tuple(found)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
