"""lm-evaluation-harness in process: its tasks and its counting, asked of a live model.

Gao et al., "The Language Model Evaluation Harness". Its `hf` backend gives the same numbers from the same weights.
Needs `pip install 'gptworks[eval]'`.
"""

import difflib
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
from gptworks.evaluate.choice import shortening_notes
from gptworks.evaluate.perplexity import cut
from gptworks.evaluate.questions import Question, ask, encode_all, start_mark
from gptworks.evaluate.results import Material, Score, Split, versions
from gptworks.evaluate.scoring import Request, fitting, score
from gptworks.evaluate.statistics import Estimate, Form, estimate
from gptworks.evaluate.texts import Text
from gptworks.generate.continuation import evaluating
from gptworks.generate.engine import GenerateSettings, stream
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

MAX_NEW_TOKENS = 256
"""The hf backend's default where a task does not say."""

FORMS: dict[str, Form] = {"word_perplexity": "exp", "byte_perplexity": "exp", "perplexity": "exp"}
FORMS |= {"bits_per_byte": "ratio"}
"""Metrics that are not means of what is counted on each example."""

Found = list[tuple[Score, Material]]


class LiveModel(TemplateLM):
    """A model of ours as the harness sees one."""

    def __init__(self, model: Model, tokenizer: Tokenizer, batch_tokens: int | None = None) -> None:
        super().__init__()
        if start_mark(tokenizer) is None:
            raise CheckpointError("lm-evaluation-harness needs a tokenizer with an end-of-text mark")
        self.model, self.tokens, self.batch_tokens = model, tokenizer, batch_tokens
        self.truncated = 0
        """Contexts that did not fit and lost their beginning."""
        self.shortened = 0
        """Answers that did not fit and lost their end."""

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id if self.tokens.eos_id is None else self.tokens.eos_id

    @property
    def prefix_token_id(self) -> int:
        return start_mark(self.tokens) or 0

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        return encode_all(self.tokens, [string])[0]

    def loglikelihood(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """(nats, greedy) of each continuation. A question's answers come one after the other, and share its context."""
        groups = itertools.groupby(requests, key=lambda r: (r.task_name, r.doc_id))
        questions = []
        for (task, number), group in groups:
            pairs: list[Any] = [request.args for request in group]
            place = f"{task}, question {number}"
            questions.append(Question(place, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)))
        asked = ask(questions, self.tokens, self.model.config.context)
        self.truncated += asked.truncated
        self.shortened += asked.shortened
        answers = score(self.model, asked.requests, batch_tokens=self.batch_tokens)
        return [(answer.total, answer.greedy) for question in answers for answer in question]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        longest = self.model.config.context
        asked = [[fitting(Request(start, rest), longest)] for _, start, rest in requests]
        self.shortened += sum(request.left_out > 0 for (request,) in asked)
        answers = score(self.model, asked, batch_tokens=self.batch_tokens)
        return [(answer.total, answer.greedy) for (answer,) in answers]

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[float]:
        """Nats of whole texts, in windows side by side."""
        texts = [
            Text(np.array(ids, dtype=np.int64), 0, 0)
            for ids in encode_all(self.tokens, [request.args[0] for request in requests])
        ]
        totals = [0.0] * len(texts)
        windows = list(cut(texts, self.prefix_token_id, self.model.config.context, None))
        answers = score(self.model, [[w.request] for w in windows], batch_tokens=self.batch_tokens)
        for window, (answer,) in zip(windows, answers, strict=True):
            totals[window.document] += answer.total
        return totals

    def generate_until(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[str]:
        """Continuations up to a stop string; what the task says of drawing is followed."""
        with evaluating(self.model):
            return [self._generate(*request.args) for request in requests]

    def _generate(self, prompt: str, options: dict[str, Any]) -> str:
        asked: dict[str, Any] = {**normalize_gen_kwargs(options, MAX_NEW_TOKENS)}
        n_new, context = asked["max_gen_toks"], self.model.config.context
        if n_new >= context:
            raise ConfigError(
                f"the task generates up to {n_new} tokens, and the model's context of {context} must hold "
                "the question too: take a model with a longer one"
            )
        ids = encode_all(self.tokens, [prompt])[0] or [self.prefix_token_id]
        self.truncated += len(ids) > context - n_new
        ids = ids[-(context - n_new) :]
        settings = GenerateSettings(
            max_tokens=n_new,
            temperature=asked["temperature"] if asked.get("do_sample") else 0.0,
            top_k=0,
            stop=tuple(string for string in asked["until"] if string),
        )
        special = set(self.tokens.special_tokens.values())
        pieces = stream(self.model, self.tokens, ids, settings)
        said = [piece.id for piece in pieces if piece.id is not None and piece.id not in special]
        text = self.tokens.decode(said)
        return text[: min((text.find(stop) for stop in settings.stop if stop in text), default=len(text))]


@dataclass(frozen=True)
class Plan:
    """Tasks of the harness with the same number of solved examples."""

    tasks: tuple[str, ...]
    shots: int | None
    """None: as each says."""


def plans(source: str, shots: int | None) -> list[Plan]:
    """`piqa,arc_easy,mmlu@5` -> which tasks are asked together.

    Raises:
        ConfigError: a number of examples that is none.
    """
    found: dict[int | None, list[str]] = {}
    for word in filter(None, (word.strip() for word in source.split(","))):
        name, at, number = word.partition("@")
        if at and not number.isdecimal():
            raise ConfigError(
                f"harness:{word}: what follows @ is the number of solved examples, such as {name}@5"
            )
        found.setdefault(int(number) if at else shots, []).append(name)
    return [Plan(tuple(names), number) for number, names in found.items()]


def manager(names: Sequence[str], include: Sequence[Path]) -> TaskManager:
    """What the harness knows of tasks: those of `include` where they are enough, since its own take seconds to list.

    Raises:
        ConfigError: a folder or a task does not exist; with the nearest names.
    """
    for folder in include:
        if not folder.is_dir():
            raise ConfigError(f"--include {folder} is no folder")
    folders: list[str | Path] = [str(folder) for folder in include]
    if folders:
        own = TaskManager(include_path=folders, include_defaults=False)
        if {*names} <= {*own.all_tasks}:
            return own
    known = TaskManager(include_path=folders or None)
    for name in names:
        if name not in known.all_tasks:
            near = difflib.get_close_matches(name, known.all_tasks, n=3, cutoff=0.5)
            raise ConfigError(
                f"lm-evaluation-harness has no task {name!r}"
                + (f"; the nearest are {', '.join(near)}" if near else "")
            )
    return known


def measure(live: LiveModel, plan: Plan, known: TaskManager, limit: int | None) -> Found:
    """The scores of its tasks, groups (such as mmlu) and parts of groups.

    Raises:
        DataError: a task's data cannot be had.
    """
    before = live.truncated, live.shortened
    try:
        said: Any = simple_evaluate(
            model=live,
            tasks=list(plan.tasks),
            num_fewshot=plan.shots,
            limit=limit,
            bootstrap_iters=0,  # errors are worked out below, without starting processes
            task_manager=known,
        )
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"harness:{','.join(plan.tasks)}: {first.strip()}") from None
    assert said is not None
    cut_short = live.truncated - before[0]
    notes = (f"{counted(cut_short, 'context')} cut at the beginning",) if cut_short else ()
    notes += shortening_notes(live.shortened - before[1])
    return [one for task in said["results"] for one in _of_task(task, said, limit, notes)]


def _of_task(
    task: str, said: Any, limit: int | None, notes: tuple[str, ...]
) -> Iterator[tuple[Score, Material]]:
    parts = _leaves(task, said)
    logged = [sample for part in parts for sample in said["samples"].get(part, [])]
    shots = said["n-shot"].get(task, said["n-shot"].get(parts[0], 0)) if parts else 0
    version = said["versions"].get(task, "?")
    config = said["configs"].get(parts[0], {}) if parts else {}
    hashes = "".join(sample["doc_hash"] for sample in logged)
    material = Material(
        f"harness:{task}",
        _split(config),
        " ".join(str(config[key]) for key in ("dataset_path", "dataset_name") if config.get(key)),
        hashlib.sha256(f"{task} {hashes}".encode()).hexdigest(),
        int(shots or 0),
        limit,
    )
    for key, value in said["results"][task].items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        mine = [one for one in logged if one["filter"] == filtered and metric in one]
        samples = _samples(metric, [one[metric] for one in mine])
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
                len(mine),
                higher_is_better=bool(said["higher_is_better"].get(task, {}).get(metric, True)),
                notes=notes,
                given=_given(float(value), samples, FORMS.get(metric, "mean")),
            ),
            material,
        )


def _leaves(task: str, said: Any) -> list[str]:
    """The tasks a group is made of; of a task, itself."""
    inside = said["group_subtasks"].get(task) or []
    return [leaf for part in inside for leaf in _leaves(part, said)] if inside else [task]


def _samples(metric: str, values: list[Any]) -> np.ndarray:
    """(N, 2) where each example's share of the metric is a number, or a log-likelihood and a length; else empty."""
    if not values:
        return np.zeros((0, 2))
    if metric in FORMS:
        pairs = [value if isinstance(value, tuple | list) else (value, 1) for value in values]
        scale = math.log(2) if metric == "bits_per_byte" else 1.0
        return np.array([(-nats / scale, length) for nats, length in pairs], dtype=np.float64)
    if all(isinstance(value, int | float | np.integer | np.floating) for value in values):
        return np.array([(float(value), 1.0) for value in values])
    return np.zeros((0, 2))


def _given(value: float, samples: np.ndarray, form: Form) -> Estimate:
    """The harness's number, with an error of our own if our samples add up to it."""
    if len(samples):
        found = estimate(samples, form)
        if math.isclose(found.value, value, rel_tol=1e-9, abs_tol=1e-12):
            return found
    return Estimate(value, None, None)


def _split(config: dict[str, Any]) -> Split:
    """The harness asks a task's test split where it has one, else its validation split."""
    name = config.get("test_split") or config.get("validation_split") or ""
    return "test" if re.match("test", str(name)) else "dev" if name else "unknown"
