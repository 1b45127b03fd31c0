"""The tasks that `--tasks` names, loaded once and then measured on one model after another.

hellaswag               an evaluation set from the Hub      perplexity:FILE       of texts or a Dataset
hellaswag:FILE          the same set from a file            bits_per_byte:FILE    independent of the tokenizer
harness:piqa,mmlu@5     tasks of lm-evaluation-harness, mmlu with 5 few-shot examples
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptworks import results
from gptworks.data import hub, json_files
from gptworks.data.json_files import Record
from gptworks.errors import ConfigError, DataError
from gptworks.evaluation import choice, perplexity, texts
from gptworks.evaluation.questions import EncodedQuestions, Question, encode_questions
from gptworks.evaluation.scores import EvalData, Measurement, Split
from gptworks.evaluation.scoring import score
from gptworks.evaluation.tasks import TASKS, TEXTS, EvalTask, canonical
from gptworks.messages import counted
from gptworks.model.build import Model
from gptworks.recipe import EvaluateOptions, PerplexityOptions
from gptworks.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TaskSpec:
    """One entry of `--tasks`, parsed."""

    task: str
    """A key of tasks.TASKS, one of tasks.TEXTS, or `harness`."""
    source: str
    """FILE or DATASET; for harness, its task names; empty for the Hub."""

    @property
    def is_text(self) -> bool:
        return self.task in TEXTS


def parse(spec: str) -> TaskSpec:
    """Parse one entry of `--tasks`.

    Raises:
        ConfigError: the task does not exist, or lacks its file.
    """
    name, _, source = spec.partition(":")
    if name == "harness":
        if not source.strip(","):
            raise ConfigError("harness: needs task names, such as harness:piqa,arc_easy")
        return TaskSpec(name, source)
    try:
        task = canonical(name)
    except ConfigError:
        if not Path(spec).is_file():
            raise
        raise ConfigError(
            f"--tasks {spec} is a file without a task; write hellaswag:{spec} or perplexity:{spec}"
        ) from None
    if not source and (task in TEXTS or not TASKS[task].hub):
        raise ConfigError(f"{name} needs a file: {name}:FILE")
    return TaskSpec(task, source)


@dataclass(frozen=True)
class ContaminatedItems:
    """Items of a task that `inspect DATASET --against` found in a Dataset."""

    task: str
    dataset: str
    identities: frozenset[str]
    """See Question.identity."""

    @classmethod
    def read(cls, file: Path) -> list["ContaminatedItems"]:
        """The contaminated items that a results file lists.

        Raises:
            DataError: the file lists none.
        """
        found = [result for result in results.read(file) if result.metric == "contaminated"]
        if not found:
            raise DataError(
                f"{file} lists no contaminated items; `gptworks inspect DATASET --against TASK` writes such a file"
            )
        return [
            cls(
                result.task,
                result.details["dataset"],
                frozenset(item["identity"] for item in result.details["items"]),
            )
            for result in found
        ]


@dataclass(frozen=True)
class ChoiceEval:
    """A task's questions, ready for any model."""

    task: EvalTask
    questions: list[Question]
    data: EvalData
    contaminated: tuple[ContaminatedItems, ...] = ()
    """For each of these, the scores without its items are reported as well."""

    def share(self, rank: int, size: int) -> "ChoiceEval":
        """One process's share of the questions."""
        return replace(self, questions=self.questions[rank::size])

    def encode(self, context: int, tokenizer: Tokenizer) -> EncodedQuestions:
        """The questions as tokens for a model with `context`."""
        return encode_questions(self.questions, tokenizer, context, separately=self.task.separately)

    def measure(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None) -> list[Measurement]:
        """Scores on all questions, then on those not contaminated."""
        encoded = self.encode(model.config.context, tokenizer)
        answers = score(model, encoded.requests, batch_tokens=batch_tokens)
        measured = [
            (full_score, self.data)
            for full_score in choice.scores(self.task, self.questions, answers, encoded)
        ]
        for listed in self.contaminated:
            clean = [
                i for i, question in enumerate(self.questions) if question.identity not in listed.identities
            ]
            questions = [self.questions[i] for i in clean]
            data = _with_fingerprint(self.task, questions, self.data)
            part = EncodedQuestions([encoded.requests[i] for i in clean], encoded.truncated)
            removed = counted(len(answers) - len(clean), "item")
            for clean_score in choice.scores(self.task, questions, [answers[i] for i in clean], part):
                name = f"{clean_score.metric}_clean"
                definition = f"{clean_score.definition}; without the {removed} found in {listed.dataset}"
                measured.append((replace(clean_score, metric=name, definition=definition), data))
        return measured


@dataclass(frozen=True)
class PerplexityEval:
    """A text to take the perplexity of; its tokens depend on the model's tokenizer."""

    task: str
    source: str
    split: Split
    options: PerplexityOptions
    limit: int | None

    def measure(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None) -> list[Measurement]:
        """The perplexities, or bits per byte alone."""
        encoded = self.encode(model.config.context, tokenizer)
        data = EvalData(self.task, encoded.split, encoded.name, encoded.fingerprint, 0, self.limit)
        scores = perplexity.measure(model, tokenizer, encoded.documents, self.options, batch_tokens)
        return [(each, data) for each in scores if self.task == "perplexity" or not each.per_token]

    def encode(self, context: int, tokenizer: Tokenizer) -> texts.Texts:  # noqa: ARG002
        """The texts as tokens."""
        return texts.load(self.source, tokenizer, self.options, self.split, self.limit)

    def share(self, rank: int, size: int) -> "PerplexityEval":  # noqa: ARG002
        """The whole text: every process measures all of it."""
        return self


def load(
    spec: TaskSpec, options: EvaluateOptions, perplexity_options: PerplexityOptions
) -> ChoiceEval | PerplexityEval:
    """Load the part of a task that does not depend on the model.

    Raises:
        ConfigError: an option does not apply to the task.
        DataError: the data is missing, or a line lacks a field.
    """
    if options.num_fewshot:
        raise ConfigError(
            f"{spec.task} takes no --num-fewshot; use harness:{spec.task}@{options.num_fewshot} for few-shot examples"
        )
    if spec.is_text:
        split = options.split or split_of_name(spec.source)
        if not Path(spec.source.partition("@")[0]).exists() and not spec.source.startswith("hf:"):
            raise ConfigError(f"--tasks {spec.task}:{spec.source}: there is no file or Dataset {spec.source}")
        return PerplexityEval(spec.task, spec.source, split, perplexity_options, options.limit)
    task = TASKS[spec.task]
    if spec.source:
        records = json_files.read_records(Path(spec.source), options.limit)
        name, split = spec.source, options.split or split_of_records(records, spec.source)
    else:
        name, records = hub.read_records(task.hub, task.hub_split, options.limit)
        split = task.split
    questions = [task.question(record) for record in records]
    data = _with_fingerprint(task, questions, EvalData(task.name, split, name, "", 0, options.limit))
    listed = [
        one for file in options.without for one in ContaminatedItems.read(file) if one.task == task.name
    ]
    return ChoiceEval(task, questions, data, tuple(listed))


def _with_fingerprint(task: EvalTask, questions: Sequence[Question], data: EvalData) -> EvalData:
    digest = hashlib.sha256(task.name.encode())
    for question in questions:
        parts = [question.contexts, question.continuations, question.gold, question.lengths]
        digest.update(json.dumps(parts).encode())
    return replace(data, fingerprint=digest.hexdigest())


SPLIT_NAMES: dict[str, Split] = {"val": "dev", "valid": "dev", "validation": "dev", "dev": "dev"}
SPLIT_NAMES |= {"test": "test", "train": "train"}


def split_of_records(records: Sequence[Record], source: str) -> Split:
    """The split that a file's rows give under `split`, else the one in its name."""
    names = {str(record.value.get("split", "")).lower() for record in records}
    known = SPLIT_NAMES.get(names.pop()) if len(names) == 1 else None
    return known or split_of_name(source)


def split_of_name(source: str) -> Split:
    """The split in a file's name; `unknown` without exactly one."""
    words = re.split(r"[^a-z]+", Path(source).name.lower())
    splits: set[Split] = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    (only,) = splits if len(splits) == 1 else ("unknown",)
    return only
