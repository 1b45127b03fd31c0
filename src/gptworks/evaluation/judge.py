"""A chat model as a judge: it scores answers from 0 to 100, or picks the better of two.

The prompt for points is IvoSusac/gpt-pytorch's (gpt_eval.py, after Raschka 2024, "Build a Large Language Model (From
Scratch)", section 7.8). Pairs are shown in both orders because judges have a position bias (Zheng et al. 2023,
"Judging LLM-as-a-Judge", section 3.3): an answer that wins in only one order has not won.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.errors import DataError
from gptworks.evaluation.endpoint import EndpointReply

RESPONSE_KEYS = ("model_response", "model response", "response")
"""Keys that may hold a response; the second is IvoSusac/gpt-pytorch's."""

CHARACTERS_PER_TOKEN = 4
"""Roughly, for English; used to estimate the cost before the first request."""


@dataclass(frozen=True)
class JudgeExample:
    """An instruction with its reference answer and a model's response."""

    instruction: str
    input: str
    output: str
    response: str | None = None

    @property
    def prompt(self) -> str:
        """The instruction with its input, as shown to the judge."""
        head = (
            "Below is an instruction that describes a requested task. Write a response that appropriately completes "
            f"the request.\n\n### Instruction:\n{self.instruction}"
        )
        return head + (f"\n\n### Input:\n{self.input}" if self.input else "")


def read(file: Path) -> list[JudgeExample]:
    """The examples in a JSON list of {instruction, input, output}, with their responses if it has them.

    Raises:
        DataError: the file or one of its examples has another shape.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from None
    rows = content.get("responses") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file} is not a JSON list of {{instruction, input, output}}, or is empty")
    return [_example(row, number, file) for number, row in enumerate(rows, 1)]


def _example(row: Any, number: int, file: Path) -> JudgeExample:
    if not isinstance(row, dict):
        raise DataError(f"{file}, example {number} is not a JSON object")
    for key in ("instruction", "output"):
        if not isinstance(row.get(key), str):
            keys = ", ".join(map(str, row)) or "none"
            raise DataError(f"{file}, example {number} has no text under `{key}`; its keys: {keys}")
    response = next((row[key] for key in RESPONSE_KEYS if isinstance(row.get(key), str)), None)
    return JudgeExample(row["instruction"], str(row.get("input") or ""), row["output"], response)


def score_prompt(example: JudgeExample) -> str:
    """The prompt that asks for points."""
    return (
        f"Given the input `{example.prompt}` and correct output `{example.output}`, score the model response "
        f"`{example.response}` on a scale from 0 to 100, where 100 is the best score. Respond with the number only."
    )


def pair_prompt(example: JudgeExample, first: str, second: str) -> str:
    """The prompt that asks which of two answers is better."""
    return (
        f"Two assistants were given the input `{example.prompt}`.\n\nAssistant A answered:\n`{first}`\n\n"
        f"Assistant B answered:\n`{second}`\n\nWhich answer is better: more correct, more helpful, and keeping to what "
        "was asked? Their order and length do not matter. Respond with A, B or tie only."
    )


def points(text: str) -> float | None:
    """0 to 100 from a reply that holds nothing else: `85`, `85.`, `85/100`, `Score: 85`; else None."""
    match = re.fullmatch(
        r"(?:score:?\s*)?(\d{1,3}(?:\.\d+)?)\s*(?:/\s*100)?\.?", text.strip().strip("*`"), re.I
    )
    return None if match is None or float(match[1]) > 100 else float(match[1])


def verdict(text: str) -> float | None:
    """1 if A is better, 0 if B is, 0.5 for a tie; None if the reply says something else."""
    choice = text.strip().strip("*`.").lower().removeprefix("assistant ")
    return {"a": 1.0, "b": 0.0, "tie": 0.5}.get(choice)


def estimate(prompts: Sequence[str], prices: tuple[float, float] | None) -> tuple[int, int, float | None]:
    """(input tokens, output tokens, US dollars) that prompts will roughly take."""
    tokens_in = sum(len(prompt) // CHARACTERS_PER_TOKEN + 8 for prompt in prompts)
    tokens_out = 4 * len(prompts)
    return tokens_in, tokens_out, cost(tokens_in, tokens_out, prices)


def cost(tokens_in: int, tokens_out: int, prices: tuple[float, float] | None) -> float | None:
    """US dollars; None if the prices are unknown."""
    return None if prices is None else (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6


@dataclass(frozen=True)
class Verdicts:
    """The judge's verdict on each example."""

    values: list[float | None]
    """Points, or wins from 0 to 1; None without a valid reply."""
    replies: list[list[str | None]]
    unparsed: int
    """Examples whose reply was not points, or not A, B or tie."""
    unanswered: int
    """Examples without a reply."""
    contradictory: int = 0
    """Pairs whose winner changed with the order."""

    @property
    def known(self) -> np.ndarray:
        """The values that are not None."""
        return np.array([value for value in self.values if value is not None])


def parse_scores(replies: Sequence[EndpointReply]) -> Verdicts:
    """Points from the replies to `score_prompt`."""
    values = [None if reply.text is None else points(reply.text) for reply in replies]
    unanswered = sum(reply.text is None for reply in replies)
    return Verdicts(values, [[reply.text] for reply in replies], values.count(None) - unanswered, unanswered)


def parse_comparisons(replies: Sequence[EndpointReply]) -> Verdicts:
    """Wins from the replies to `pair_prompt`, two per pair: the model's answer as A, then as B."""
    values, texts, unparsed, unanswered, contradictory = [], [], 0, 0, 0
    for as_a, as_b in zip(replies[::2], replies[1::2], strict=True):
        texts.append([as_a.text, as_b.text])
        if as_a.text is None or as_b.text is None:
            unanswered += 1
            values.append(None)
            continue
        first, second = verdict(as_a.text), verdict(as_b.text)
        if first is None or second is None:
            unparsed += 1
            values.append(None)
            continue
        second = 1 - second
        contradictory += {first, second} == {0.0, 1.0}
        values.append((first + second) / 2)
    return Verdicts(values, texts, unparsed, unanswered, contradictory)
