"""From how likely each answer is to what is counted: which answer is taken, and whether it is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptworks.evaluate.questions import Asked, Question
from gptworks.evaluate.results import Score
from gptworks.evaluate.scoring import Answer, Request
from gptworks.evaluate.statistics import Form
from gptworks.evaluate.tasks import Task
from gptworks.wording import counted

Measure = Callable[[Question, Sequence[Answer]], float]


def _taken(scores: Sequence[float], gold: int) -> float:
    return float(int(np.argmax(scores)) == gold)


def accuracy(question: Question, answers: Sequence[Answer]) -> float:
    """1 if the likeliest answer is the right one; of equals the first is taken."""
    return _taken([answer.total for answer in answers], question.gold)


def accuracy_per_character(question: Question, answers: Sequence[Answer]) -> float:
    """1 if the answer likeliest by its characters is the right one."""
    pairs = zip(answers, question.lengths, strict=True)
    return _taken([answer.total / length for answer, length in pairs], question.gold)


def accuracy_per_token(question: Question, answers: Sequence[Answer]) -> float:
    """1 if the answer likeliest by its tokens is the right one."""
    return _taken([answer.total / len(answer.logprobs) for answer in answers], question.gold)


def greedy(question: Question, answers: Sequence[Answer]) -> float:
    """1 if every token of the answer is the likeliest."""
    return float(answers[question.gold].greedy)


def nats(question: Question, answers: Sequence[Answer]) -> float:
    """How surprising the answer is."""
    return -answers[question.gold].total


@dataclass(frozen=True)
class Metric:
    """Something counted on each question, and what the counts make."""

    measure: Measure
    form: Form
    definition: str
    higher_is_better: bool = True
    called: str | None = None
    """As results call it, where that is not its key."""


METRICS = {
    "acc": Metric(
        accuracy, "mean", "share of questions whose answer with the highest log-probability is right"
    ),
    "acc_norm": Metric(
        accuracy_per_character,
        "mean",
        "share of questions whose answer with the highest log-probability per character of the answer is right",
    ),
    "acc_norm_token": Metric(
        accuracy_per_token,
        "mean",
        "share of questions whose answer with the highest mean log-probability per token of the answer is right",
    ),
    "acc_greedy": Metric(
        greedy, "mean", "share of words of which every token is the model's likeliest", called="acc"
    ),
    "perplexity_of_words": Metric(
        nats,
        "exp",
        "exponential of the mean of -log p(word), the word's tokens together",
        higher_is_better=False,
        called="perplexity",
    ),
}


def scores(
    task: Task, questions: Sequence[Question], answers: Sequence[Sequence[Answer]], asked: Asked
) -> list[Score]:
    """What a task counts. Of an answer that was not read to its end, only that part's characters count."""
    questions = [_as_read(*pair) for pair in zip(questions, asked.requests, strict=True)]
    notes = truncation_notes(asked.truncated, len(questions)) + shortening_notes(asked.shortened)
    return [
        Score(
            metric=METRICS[name].called or name,
            samples=samples(questions, answers, METRICS[name].measure),
            form=METRICS[name].form,
            definition=f"{METRICS[name].definition}; {task.asked}",
            n=len(questions),
            higher_is_better=METRICS[name].higher_is_better,
            notes=notes,
            details={"truncated": asked.truncated, "shortened": asked.shortened},
        )
        for name in task.metrics
    ]


def _as_read(question: Question, requests: Sequence[Request]) -> Question:
    pairs = zip(question.lengths, requests, strict=False)  # some tasks need no lengths
    return replace(question, lengths=tuple(length * request.share for length, request in pairs))


def samples(
    questions: Sequence[Question], answers: Sequence[Sequence[Answer]], measure: Measure
) -> np.ndarray:
    """(N, 2): what is counted on each question, over 1."""
    counted = [measure(q, a) for q, a in zip(questions, answers, strict=True)]
    return np.stack([np.array(counted), np.ones(len(counted))], axis=1)


def truncation_notes(truncated: int, n: int) -> tuple[str, ...]:
    """What a person should know."""
    if not truncated:
        return ()
    return (f"{truncated:,} of {counted(n, 'context')} longer than the model reads: cut at the beginning",)


def shortening_notes(shortened: int) -> tuple[str, ...]:
    """The same of answers."""
    if not shortened:
        return ()
    their = "its" if shortened == 1 else "their"
    return (f"{counted(shortened, 'answer')} longer than the context: only {their} beginning is scored",)
