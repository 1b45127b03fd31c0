"""A chat model judges answers: points from 0 to 100, or which of two is better.

The question for points is that of IvoSusac/gpt-pytorch (gpt_eval.py, after Raschka 2024, "Build a Large Language Model
(From Scratch)", section 7.8). Of two answers each is shown first once, for judges favour places (Zheng et al. 2023,
"Judging LLM-as-a-Judge", section 3.3): a side that wins in one order alone has not won.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.errors import DataError
from gptworks.evaluate.endpoint import Answer

RESPONSE_KEYS = ("model_response", "model response", "response")
"""What a response is called; the second by IvoSusac/gpt-pytorch."""

CHARACTERS_PER_TOKEN = 4
"""Of English, about: for the estimate before the first call."""


@dataclass(frozen=True)
class Judged:
    """An instruction, the answer it should have, and the one a model gave."""

    instruction: str
    input: str
    output: str
    response: str | None = None

    @property
    def asked(self) -> str:
        """The instruction with its input, as the judge is shown it."""
        head = (
            "Below is an instruction that describes a requested task. Write a response that appropriately completes "
            f"the request.\n\n### Instruction:\n{self.instruction}"
        )
        return head + (f"\n\n### Input:\n{self.input}" if self.input else "")


def read(file: Path) -> list[Judged]:
    """The examples in a JSON list of {instruction, input, output}, with responses where it has them.

    Raises:
        DataError: it is none; the first bad example is named by its number.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None
    rows = told.get("responses") if isinstance(told, dict) else told
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file} is no list of {{instruction, input, output}}, or an empty one")
    return [_example(row, number, file) for number, row in enumerate(rows, 1)]


def _example(row: Any, number: int, file: Path) -> Judged:
    if not isinstance(row, dict):
        raise DataError(f"{file}, example {number} is no object")
    for key in ("instruction", "output"):
        if not isinstance(row.get(key), str):
            has = ", ".join(map(str, row)) or "nothing"
            raise DataError(f"{file}, example {number} has no text `{key}`; it has {has}")
    response = next((row[key] for key in RESPONSE_KEYS if isinstance(row.get(key), str)), None)
    return Judged(row["instruction"], str(row.get("input") or ""), row["output"], response)


def score_prompt(one: Judged) -> str:
    """The question for points."""
    return (
        f"Given the input `{one.asked}` and correct output `{one.output}`, score the model response `{one.response}` "
        "on a scale from 0 to 100, where 100 is the best score. Respond with the number only."
    )


def pair_prompt(one: Judged, first: str, second: str) -> str:
    """The question which of two answers is better."""
    return (
        f"Two assistants were given the input `{one.asked}`.\n\nAssistant A answered:\n`{first}`\n\n"
        f"Assistant B answered:\n`{second}`\n\nWhich answer is better: more correct, more helpful, and keeping to what "
        "was asked? Their order and length do not matter. Respond with A, B or tie only."
    )


def points(text: str) -> float | None:
    """0 to 100, if that and nothing else was said: `85`, `85.`, `85/100`, `Score: 85`."""
    found = re.fullmatch(
        r"(?:score:?\s*)?(\d{1,3}(?:\.\d+)?)\s*(?:/\s*100)?\.?", text.strip().strip("*`"), re.I
    )
    if found is None or float(found[1]) > 100:
        return None
    return float(found[1])


def verdict(text: str) -> float | None:
    """1 if A is better, 0 if B is, 0.5 for a tie; None if that was not said."""
    said = text.strip().strip("*`.").lower().removeprefix("assistant ")
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get(said)


def estimate(prompts: Sequence[str], prices: tuple[float, float] | None) -> tuple[int, int, float | None]:
    """(tokens in, tokens out, US dollars) that prompts will take, about."""
    tokens_in = sum(len(prompt) // CHARACTERS_PER_TOKEN + 8 for prompt in prompts)
    tokens_out = 4 * len(prompts)
    return tokens_in, tokens_out, cost(tokens_in, tokens_out, prices)


def cost(tokens_in: int, tokens_out: int, prices: tuple[float, float] | None) -> float | None:
    """US dollars; None where prices are not known."""
    return None if prices is None else (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6


@dataclass(frozen=True)
class Verdicts:
    """What the judge said of each example, and what that comes to."""

    values: list[float | None]
    """Points, or wins from 0 to 1; None where the judge did not say."""
    said: list[list[str | None]]
    """The judge's words."""
    unread: int
    """Answers that say something else than was asked for."""
    unanswered: int
    """Questions that were never answered."""
    contradictory: int = 0
    """Pairs in which one side won in one order and the other in the other."""

    @property
    def known(self) -> np.ndarray:
        """The values there are."""
        return np.array([value for value in self.values if value is not None])


def scored(answers: Sequence[Answer]) -> Verdicts:
    """Points from answers to `score_prompt`."""
    values = [None if answer.text is None else points(answer.text) for answer in answers]
    unanswered = sum(answer.text is None for answer in answers)
    return Verdicts(
        values, [[answer.text] for answer in answers], values.count(None) - unanswered, unanswered
    )


def compared(answers: Sequence[Answer]) -> Verdicts:
    """Wins from answers to `pair_prompt`, two a pair: the model's answer as A, then as B."""
    values, said, unread, unanswered, contradictory = [], [], 0, 0, 0
    for as_a, as_b in zip(answers[::2], answers[1::2], strict=True):
        said.append([as_a.text, as_b.text])
        if as_a.text is None or as_b.text is None:
            unanswered += 1
            values.append(None)
            continue
        first, second = verdict(as_a.text), verdict(as_b.text)
        if first is None or second is None:
            unread += 1
            values.append(None)
            continue
        second = 1 - second
        contradictory += {first, second} == {0.0, 1.0}
        values.append((first + second) / 2)
    return Verdicts(values, said, unread, unanswered, contradictory)
