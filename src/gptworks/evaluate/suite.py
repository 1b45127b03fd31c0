"""What `--tasks` names: loaded once, then measured on one model after another.

hellaswag               a set of the Hub                perplexity:FILE       texts, or a Dataset
hellaswag:FILE          the same from a file            bits_per_byte:FILE    what does not depend on the tokenizer
harness:piqa,mmlu@5     lm-evaluation-harness, with so many solved examples before each question
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptworks.data import items
from gptworks.data.items import Record
from gptworks.errors import ConfigError, DataError
from gptworks.evaluate import choice, perplexity, results, texts
from gptworks.evaluate.questions import Asked, Question, ask
from gptworks.evaluate.results import Material, Score, Split
from gptworks.evaluate.scoring import score
from gptworks.evaluate.tasks import TASKS, TEXTS, Task, canonical
from gptworks.model.build import Model
from gptworks.recipe import EvaluateOptions, PerplexityOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

Found = list[tuple[Score, Material]]


@dataclass(frozen=True)
class Wanted:
    """One of `--tasks`."""

    task: str
    """A name of tasks.TASKS or TEXTS, or `harness`."""
    source: str
    """FILE or DATASET; for harness its tasks; empty: the Hub."""

    @property
    def is_text(self) -> bool:
        return self.task in TEXTS


def parse(spec: str) -> Wanted:
    """What a word of `--tasks` means.

    Raises:
        ConfigError: there is no such task, or it does not say on what.
    """
    name, _, source = spec.partition(":")
    if name == "harness":
        if not source.strip(","):
            raise ConfigError("harness: needs names of tasks: harness:piqa,arc_easy")
        return Wanted(name, source)
    try:
        task = canonical(name)
    except ConfigError:
        if not Path(spec).is_file():
            raise
        raise ConfigError(
            f"{spec} is a file, and its task is not said: write hellaswag:{spec} or perplexity:{spec}"
        ) from None
    if not source and (task in TEXTS or not TASKS[task].hub):
        raise ConfigError(f"{name} needs a file: {name}:FILE")
    return Wanted(task, source)


@dataclass(frozen=True)
class Quiz:
    """Questions of a task, ready for any model."""

    task: Task
    questions: list[Question]
    material: Material
    found_in: tuple["FoundIn", ...] = ()
    """Datasets in which some of the questions stand: scores are also given without these."""

    def share(self, rank: int, size: int) -> "Quiz":
        """One process's part of the questions."""
        return replace(self, questions=self.questions[rank::size])

    def asked(self, context: int, tokenizer: Tokenizer) -> Asked:
        """The questions as tokens for a model with `context`."""
        return ask(self.questions, tokenizer, context, apart=self.task.apart)

    def measure(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None) -> Found:
        """Its scores, of all questions and of those that stand in no Dataset it was searched for in."""
        asked = self.asked(model.config.context, tokenizer)
        answers = score(model, asked.requests, batch_tokens=batch_tokens)
        found = [(one, self.material) for one in choice.scores(self.task, self.questions, answers, asked)]
        for told in self.found_in:
            left = [i for i, question in enumerate(self.questions) if question.identity not in told.items]
            questions = [self.questions[i] for i in left]
            material = _material(self.task, questions, self.material)
            part = Asked([asked.requests[i] for i in left], asked.truncated)
            for one in choice.scores(self.task, questions, [answers[i] for i in left], part):
                gone = counted(len(answers) - len(left), "item")
                words = f"{one.definition}; without the {gone} found in {told.dataset}"
                found.append((replace(one, metric=f"{one.metric}_clean", definition=words), material))
        return found


@dataclass(frozen=True)
class FoundIn:
    """What `inspect DATASET --against` found of a task."""

    task: str
    dataset: str
    items: frozenset[str]
    """Identities of questions."""

    @classmethod
    def read(cls, file: Path) -> list["FoundIn"]:
        """The contaminated items that a file of results tells of.

        Raises:
            DataError: the file is no such thing.
        """
        rows = [row for row in results.read(file)["rows"] if row.get("metric") == "contaminated"]
        if not rows:
            raise DataError(
                f"{file} tells of no contamination; `gptworks inspect DATASET --against` writes one that does"
            )
        return [
            cls(
                row["task"],
                row["details"]["dataset"],
                frozenset(i["identity"] for i in row["details"]["items"]),
            )
            for row in rows
        ]


@dataclass(frozen=True)
class Reading:
    """A text, whose tokens depend on the model."""

    task: str
    source: str
    split: Split
    options: PerplexityOptions
    limit: int | None

    def measure(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None) -> Found:
        """Its scores."""
        loaded = self.asked(model.config.context, tokenizer)
        material = Material(self.task, loaded.split, loaded.name, loaded.fingerprint, 0, self.limit)
        found = perplexity.measure(model, tokenizer, loaded.documents, self.options, batch_tokens)
        return [(one, material) for one in found if self.task == "perplexity" or not one.per_token]

    def asked(self, context: int, tokenizer: Tokenizer) -> texts.Texts:  # noqa: ARG002
        """The texts as tokens."""
        return texts.load(self.source, tokenizer, self.options, self.split, self.limit)

    def share(self, rank: int, size: int) -> "Reading":  # noqa: ARG002
        """Texts are read whole by every process."""
        return self


Part = Quiz | Reading


def load(wanted: Wanted, options: EvaluateOptions, reading: PerplexityOptions) -> Part:
    """Everything of a task that does not depend on the model.

    Raises:
        ConfigError: options that do not go with it.
        DataError: its data is missing, or lacks what the task needs; with the line.
    """
    if options.shots:
        raise ConfigError(
            f"{wanted.task} is asked without examples here; harness:{wanted.task}@{options.shots} asks it with some"
        )
    if wanted.is_text:
        held = options.split or held_by_name(wanted.source)
        if not Path(wanted.source.partition("@")[0]).exists() and not wanted.source.startswith("hf:"):
            raise ConfigError(f"there is no file or Dataset {wanted.source} to take the {wanted.task} of")
        return Reading(wanted.task, wanted.source, held, reading, options.limit)
    task = TASKS[wanted.task]
    if wanted.source:
        records = items.from_file(Path(wanted.source), options.limit)
        name, held = wanted.source, options.split or held_by(records, wanted.source)
    else:
        name, records = items.from_hub(task.hub, task.hub_split, options.limit)
        held = task.split
    questions = [task.question(record) for record in records]
    material = Material(task.name, held, name, "", 0, options.limit)
    told = [one for file in options.without for one in FoundIn.read(file) if one.task == task.name]
    return Quiz(task, questions, _material(task, questions, material), tuple(told))


def _material(task: Task, questions: Sequence[Question], like: Material) -> Material:
    digest = hashlib.sha256(task.name.encode())
    for question in questions:
        parts = [question.contexts, question.continuations, question.gold, question.lengths]
        digest.update(json.dumps(parts).encode())
    return Material(like.task, like.split, like.data, digest.hexdigest(), like.shots, like.limit)


SPELLINGS: dict[str, Split] = {"val": "dev", "valid": "dev", "validation": "dev", "dev": "dev"}
SPELLINGS |= {"test": "test", "train": "train"}


def held_by(records: Sequence[Record], source: str) -> Split:
    """Which split a file is: what its rows say under `split`, else its name."""
    said = {str(record.value.get("split", "")).lower() for record in records}
    known = SPELLINGS.get(said.pop()) if len(said) == 1 else None
    return known or held_by_name(source)


def held_by_name(source: str) -> Split:
    """Which split a file is called."""
    words = re.split(r"[^a-z]+", Path(source).name.lower())
    named: set[Split] = {SPELLINGS[word] for word in words if word in SPELLINGS}
    (only,) = named if len(named) == 1 else ("unknown",)
    return only
