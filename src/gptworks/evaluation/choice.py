"""From the log-probabilities of answers to scores: the answer a model picks, and whether it is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gptworks.evaluation.questions import EncodedQuestions, Question
from gptworks.evaluation.scores import Score
from gptworks.evaluation.scoring import ContinuationScore, ScoreRequest
from gptworks.evaluation.statistics import Form
from gptworks.evaluation.tasks import EvalTask
from gptworks.messages import counted

Measure = Callable[[Question, Sequence[ContinuationScore]], float]


def _picks(scores: Sequence[float], gold: int) -> float:
    return float(int(np.argmax(scores)) == gold)  # the first of equal scores


def accuracy(question: Question, answers: Sequence[ContinuationScore]) -> float:
    """1 if the right answer has the highest log-probability."""
    return _picks([answer.total for answer in answers], question.gold)


def accuracy_per_character(question: Question, answers: Sequence[ContinuationScore]) -> float:
    """1 if the right answer has the highest log-probability per character."""
    pairs = zip(answers, question.lengths, strict=True)
    return _picks([answer.total / length for answer, length in pairs], question.gold)


def accuracy_per_token(question: Question, answers: Sequence[ContinuationScore]) -> float:
    """1 if the right answer has the highest log-probability per token."""
    return _picks([answer.total / len(answer.logprobs) for answer in answers], question.gold)


def greedy(question: Question, answers: Sequence[ContinuationScore]) -> float:
    """1 if greedy decoding gives the right answer."""
    return float(answers[question.gold].greedy)


def nats(question: Question, answers: Sequence[ContinuationScore]) -> float:
    """-log p of the right answer."""
    return -answers[question.gold].total


@dataclass(frozen=True)
class Metric:
    """A measure of one question, and how the measures combine into a score."""

    measure: Measure
    form: Form
    definition: str
    higher_is_better: bool = True
    name: str | None = None
    """Its name in results, if it is not the key in METRICS."""


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
        greedy, "mean", "share of words of which every token is the model's likeliest", name="acc"
    ),
    "perplexity_of_words": Metric(
        nats,
        "exp",
        "exponential of the mean of -log p(word), the word's tokens together",
        higher_is_better=False,
        name="perplexity",
    ),
}
"""Rows with another definition are not comparable, so keep the wording."""


def scores(
    task: EvalTask,
    questions: Sequence[Question],
    answers: Sequence[Sequence[ContinuationScore]],
    encoded: EncodedQuestions,
) -> list[Score]:
    """The task's metrics. Of an answer that was truncated, only the scored part's characters count."""
    questions = [_with_scored_lengths(*pair) for pair in zip(questions, encoded.requests, strict=True)]
    notes = truncation_notes(encoded.truncated, len(questions)) + shortening_notes(encoded.shortened)
    return [
        Score(
            metric=METRICS[name].name or name,
            samples=samples(questions, answers, METRICS[name].measure),
            form=METRICS[name].form,
            definition=f"{METRICS[name].definition}; {task.prompt}",
            n=len(questions),
            higher_is_better=METRICS[name].higher_is_better,
            notes=notes,
            details={"truncated": encoded.truncated, "shortened": encoded.shortened},
        )
        for name in task.metrics
    ]


def _with_scored_lengths(question: Question, requests: Sequence[ScoreRequest]) -> Question:
    pairs = zip(question.lengths, requests, strict=False)  # some tasks need no lengths
    return replace(question, lengths=tuple(length * request.share for length, request in pairs))


def samples(
    questions: Sequence[Question], answers: Sequence[Sequence[ContinuationScore]], measure: Measure
) -> np.ndarray:
    """(N, 2): the measure of each question, over 1."""
    measured = [measure(*pair) for pair in zip(questions, answers, strict=True)]
    return np.stack([np.array(measured), np.ones(len(measured))], axis=1)


def truncation_notes(truncated: int, n: int) -> tuple[str, ...]:
    """A note if contexts lost their beginning."""
    if not truncated:
        return ()
    return (
        f"{truncated:,} of {counted(n, 'question')} longer than the model's context: cut at the beginning",
    )


def shortening_notes(shortened: int) -> tuple[str, ...]:
    """A note if answers lost their end."""
    if not shortened:
        return ()
    return (f"{counted(shortened, 'answer')} longer than the model's context: cut at the end",)
