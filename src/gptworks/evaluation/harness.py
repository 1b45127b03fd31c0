"""lm-evaluation-harness in process: its tasks and metrics on a model of ours.

Gao et al., "The Language Model Evaluation Harness". Its `hf` backend gives the same values from the same weights.
Needs `pip install 'gptworks[eval]'`.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from gptworks.errors import CheckpointError, ConfigError, DataError
from gptworks.evaluation.choice import shortening_notes
from gptworks.evaluation.perplexity import make_windows
from gptworks.evaluation.questions import Question, encode_all, encode_questions, start_token
from gptworks.evaluation.scores import EvalData, Measurement, Score, Split, versions
from gptworks.evaluation.scoring import ScoreRequest, score, truncate
from gptworks.evaluation.statistics import Estimate, Form, estimate
from gptworks.evaluation.texts import Text
from gptworks.generation.decoding import evaluating
from gptworks.generation.engine import GenerateSettings, stream
from gptworks.messages import counted, nearest
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256
"""The hf backend's default."""

FORMS: dict[str, Form] = {"word_perplexity": "exp", "byte_perplexity": "exp", "perplexity": "exp"}
FORMS |= {"bits_per_byte": "ratio"}
"""Metrics that are not means over examples."""


class LiveModel(TemplateLM):
    """A model of ours behind the harness's interface."""

    def __init__(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None = None) -> None:
        super().__init__()
        if start_token(tokenizer) is None:
            raise CheckpointError("lm-evaluation-harness needs a tokenizer with an end-of-text token")
        self.model, self.tokens, self.batch_tokens = model, tokenizer, batch_tokens
        self.truncated = 0
        """Contexts that lost their beginning to fit the model's context."""
        self.shortened = 0
        """Answers that lost their end to fit the model's context."""

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id if self.tokens.eos_id is None else self.tokens.eos_id

    @property
    def prefix_token_id(self) -> int:
        return start_token(self.tokens) or 0

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        return encode_all(self.tokens, [string])[0]

    def loglikelihood(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """(nats, greedy) of each continuation. The answers to one question are adjacent and share its context."""
        groups = itertools.groupby(requests, key=lambda r: (r.task_name, r.doc_id))
        questions = []
        for (task, number), group in groups:
            pairs: list[Any] = [request.args for request in group]
            place = f"{task}, question {number}"
            questions.append(Question(place, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)))
        encoded = encode_questions(questions, self.tokens, self.model.config.context)
        self.truncated += encoded.truncated
        self.shortened += encoded.shortened
        answers = score(self.model, encoded.requests, batch_tokens=self.batch_tokens)
        return [(answer.total, answer.greedy) for question in answers for answer in question]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        context = self.model.config.context
        questions = [[truncate(ScoreRequest(start, rest), context)] for _, start, rest in requests]
        self.shortened += sum(request.n_dropped > 0 for (request,) in questions)
        answers = score(self.model, questions, batch_tokens=self.batch_tokens)
        return [(answer.total, answer.greedy) for (answer,) in answers]

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[float]:
        """Log-likelihood of whole texts, in windows that do not overlap."""
        texts = [
            Text(np.array(ids, dtype=np.int64), 0, 0)
            for ids in encode_all(self.tokens, [request.args[0] for request in requests])
        ]
        totals = [0.0] * len(texts)
        windows = list(make_windows(texts, self.prefix_token_id, self.model.config.context, None))
        answers = score(self.model, [[w.request] for w in windows], batch_tokens=self.batch_tokens)
        for window, (answer,) in zip(windows, answers, strict=True):
            totals[window.document] += answer.total
        return totals

    def generate_until(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[str]:
        """Continuations up to a stop string, sampled as the task specifies."""
        with evaluating(self.model):
            return [self._generate(*request.args) for request in requests]

    def _generate(self, prompt: str, options: dict[str, Any]) -> str:
        wanted: dict[str, Any] = {**normalize_gen_kwargs(options, MAX_NEW_TOKENS)}
        n_new, context = wanted["max_gen_toks"], self.model.config.context
        if n_new >= context:
            raise ConfigError(
                f"the task generates up to {n_new} tokens, which does not leave room for the question in the model's "
                f"context of {context}; use a model with a longer context"
            )
        ids = encode_all(self.tokens, [prompt])[0] or [self.prefix_token_id]
        self.truncated += len(ids) > context - n_new
        ids = ids[-(context - n_new) :]
        settings = GenerateSettings(
            max_tokens=n_new,
            temperature=wanted["temperature"] if wanted.get("do_sample") else 0.0,
            top_k=0,
            stop=tuple(string for string in wanted["until"] if string),
        )
        special = set(self.tokens.special_tokens.values())
        tokens = stream(self.model, self.tokens, ids, settings)
        text = self.tokens.decode([t.id for t in tokens if t.id is not None and t.id not in special])
        return text[: min((text.find(stop) for stop in settings.stop if stop in text), default=len(text))]


@dataclass(frozen=True)
class FewshotGroup:
    """Tasks of the harness with the same number of few-shot examples."""

    tasks: tuple[str, ...]
    num_fewshot: int | None
    """None for each task's default."""


def fewshot_groups(source: str, num_fewshot: int | None) -> list[FewshotGroup]:
    """`piqa,arc_easy,mmlu@5` -> its tasks, grouped by their number of few-shot examples.

    Raises:
        ConfigError: what follows @ is not a number.
    """
    groups: dict[int | None, list[str]] = {}
    for word in filter(None, (word.strip() for word in source.split(","))):
        name, at, number = word.partition("@")
        if at and not number.isdecimal():
            raise ConfigError(
                f"harness:{word}: write the number of few-shot examples after @, such as {name}@5"
            )
        groups.setdefault(int(number) if at else num_fewshot, []).append(name)
    return [FewshotGroup(tuple(names), number) for number, names in groups.items()]


def task_manager(names: Sequence[str], include: Sequence[Path]) -> TaskManager:
    """The harness's task index. If the `include` folders define all tasks, its own are not listed, which takes seconds.

    Raises:
        ConfigError: a folder or a task does not exist.
    """
    for folder in include:
        if not folder.is_dir():
            raise ConfigError(f"--include {folder} is not a folder")
    folders: list[str | Path] = [str(folder) for folder in include]
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        if {*names} <= {*own.all_tasks}:
            return own
    manager = TaskManager(include_path=folders or None)
    for name in names:
        if name not in manager.all_tasks:
            raise ConfigError(
                f"lm-evaluation-harness has no task {name!r}{nearest(name, manager.all_tasks, cutoff=0.5)}"
            )
    return manager


def measure(
    model: LiveModel, group: FewshotGroup, manager: TaskManager, limit: int | None
) -> list[Measurement]:
    """Scores of tasks, of groups (such as mmlu), and of the tasks in groups.

    Raises:
        DataError: a task's data cannot be loaded.
    """
    truncated, shortened = model.truncated, model.shortened
    try:
        output: Any = simple_evaluate(
            model=model,
            tasks=list(group.tasks),
            num_fewshot=group.num_fewshot,
            limit=limit,
            bootstrap_iters=0,  # we estimate errors below, without starting processes
            task_manager=manager,
        )
    except (OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"harness:{','.join(group.tasks)}: {reason.strip()}") from None
    assert output is not None
    truncated, shortened = model.truncated - truncated, model.shortened - shortened
    notes = (f"{counted(truncated, 'context')} cut at the beginning",) if truncated else ()
    notes += shortening_notes(shortened)
    return [
        measurement for task in output["results"] for measurement in _measurements(task, output, limit, notes)
    ]


def _measurements(task: str, output: Any, limit: int | None, notes: tuple[str, ...]) -> Iterator[Measurement]:
    parts = _leaves(task, output)
    logged = [sample for part in parts for sample in output["samples"].get(part, [])]
    num_fewshot = output["n-shot"].get(task, output["n-shot"].get(parts[0], 0)) if parts else 0
    version = output["versions"].get(task, "?")
    config = output["configs"].get(parts[0], {}) if parts else {}
    hashes = "".join(sample["doc_hash"] for sample in logged)
    data = EvalData(
        f"harness:{task}",
        _split(config),
        " ".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key)),
        hashlib.sha256(f"{task} {hashes}".encode()).hexdigest(),
        int(num_fewshot or 0),
        limit,
    )
    for key, value in output["results"][task].items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        examples = [sample for sample in logged if sample["filter"] == filtered and metric in sample]
        samples = _samples(metric, [sample[metric] for sample in examples])
        definition = (
            f"lm-evaluation-harness {versions().get('lm_eval', '')}, task {task} version {version}, "
            f"metric {metric}, filter {filtered}"
        )
        yield (
            Score(
                metric if filtered == "none" else key,
                samples,
                FORMS.get(metric, "mean"),
                definition,
                len(examples),
                higher_is_better=bool(output["higher_is_better"].get(task, {}).get(metric, True)),
                notes=notes,
                known=_estimate(float(value), samples, FORMS.get(metric, "mean")),
            ),
            data,
        )


def _leaves(task: str, output: Any) -> list[str]:
    """All tasks in a group and its subgroups; a task alone gives itself."""
    subtasks = output["group_subtasks"].get(task) or []
    return [leaf for part in subtasks for leaf in _leaves(part, output)] if subtasks else [task]


def _samples(metric: str, values: list[Any]) -> np.ndarray:
    """(N, 2) if each example has a number, or a log-likelihood and a length; else empty."""
    if not values:
        return np.zeros((0, 2))
    if metric in FORMS:
        pairs = [value if isinstance(value, tuple | list) else (value, 1) for value in values]
        scale = math.log(2) if metric == "bits_per_byte" else 1.0
        return np.array([(-nats / scale, length) for nats, length in pairs], dtype=np.float64)
    if all(isinstance(value, int | float | np.integer | np.floating) for value in values):
        return np.array([(float(value), 1.0) for value in values])
    return np.zeros((0, 2))


def _estimate(value: float, samples: np.ndarray, form: Form) -> Estimate:
    """The harness's value, with our error if our samples give that value."""
    if len(samples):
        ours = estimate(samples, form)
        if math.isclose(ours.value, value, rel_tol=1e-9, abs_tol=1e-12):
            return ours
    return Estimate(value, None, None)


def _split(config: dict[str, Any]) -> Split:
    """The harness uses a task's test split if it has one, else its validation split."""
    name = config.get("test_split") or config.get("validation_split") or ""
    return "test" if re.match("test", str(name)) else "dev" if name else "unknown"
