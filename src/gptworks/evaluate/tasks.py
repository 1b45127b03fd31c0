"""The evaluation sets that are scored in process: where they are, how a record becomes a question, what is counted.

Wording and counting are lm-evaluation-harness's (lm_eval/tasks/*), so that figures compare with other people's;
`hellaswag_completion` is GPT-alpha's and build-nanogpt's way. Zellers et al. 2019 (HellaSwag), Bisk et al. 2020
(PIQA), Clark et al. 2018 (ARC), Sakaguchi et al. 2020 (WinoGrande), Mihaylov et al. 2018 (OpenBookQA), Clark et al.
2019 (BoolQ), Sap et al. 2019 (Social IQa), Paperno et al. 2016 (LAMBADA).
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gptworks.data.items import Record
from gptworks.errors import ConfigError, DataError
from gptworks.evaluate.questions import Question
from gptworks.evaluate.results import Split

Raw = dict[str, Any]
Parts = tuple[Sequence[str], Sequence[str], int, Sequence[str]]
"""Contexts, continuations, which is right, and the answers whose characters are counted."""


@dataclass(frozen=True)
class Task:
    """An evaluation set."""

    name: str
    hub: str
    """hf:OWNER/NAME[:CONFIG]; empty where only files are read."""
    hub_split: str
    split: Split
    parts: Callable[[Raw], Parts]
    metrics: tuple[str, ...]
    asked: str
    """How, in words."""
    apart: bool = False
    """Encode context and continuation by themselves."""

    def question(self, record: Record) -> Question:
        """A record as a question.

        Raises:
            DataError: it lacks what the task needs; says where, and what is missing.
        """
        try:
            contexts, continuations, gold, answers = self.parts(record.value)
            if not 0 <= gold < len(answers):
                raise ValueError(f"the right answer is number {gold + 1} of {len(answers)}")
            lengths = tuple(len(answer) for answer in answers)
            if not all(lengths):
                raise ValueError("an answer is empty")
            return Question(record.place, tuple(contexts), tuple(continuations), gold, lengths)
        except KeyError as error:
            have = ", ".join(map(str, record.value)) or "nothing"
            raise DataError(
                f"{record.place} lacks {error}, which {self.name} needs (there is {have})"
            ) from None
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{record.place} cannot be read for {self.name}: {error}") from None


def _choices(context: str, answers: Sequence[str], gold: int) -> Parts:
    return [context] * len(answers), [f" {answer}" for answer in answers], gold, answers


def generic(raw: Raw) -> Parts:
    """`query` or `context`, `choices`, and `gold` or `label`: the shape llm-foundry and others use."""
    context = raw["query"] if "query" in raw else raw["context"]
    return _choices(context, raw["choices"], int(raw["gold"] if "gold" in raw else raw["label"]))


def cleaned(text: str) -> str:
    """HellaSwag's text without the marks of WikiHow pages, as lm-evaluation-harness does it."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(raw: Raw) -> Parts:
    """Activity and context, both halves where the record has them."""
    halves = (
        f"{raw['ctx_a']} {raw['ctx_b'].capitalize()}" if "ctx_a" in raw and "ctx_b" in raw else raw["ctx"]
    )
    answers = [cleaned(ending) for ending in _list(raw, "endings")]
    return _choices(cleaned(f"{raw['activity_label']}: {halves}"), answers, int(raw["label"]))


def hellaswag_completion(raw: Raw) -> Parts:
    """Context and endings as they stand."""
    return _choices(raw["ctx"], _list(raw, "endings"), int(raw["label"]))


def piqa(raw: Raw) -> Parts:
    """A goal and two ways to it."""
    return _choices(f"Question: {raw['goal']}\nAnswer:", [raw["sol1"], raw["sol2"]], int(raw["label"]))


def _school(raw: Raw) -> tuple[str, list[str], int]:
    """Question, answers, and the right one, of AI2's two shapes: the Hub's and the original files'."""
    if isinstance(inner := raw.get("question"), dict):
        choices = inner["choices"]
        stem, texts, labels = inner["stem"], [c["text"] for c in choices], [c["label"] for c in choices]
    else:
        stem = raw["question_stem"] if "question_stem" in raw else raw["question"]
        texts, labels = raw["choices"]["text"], raw["choices"]["label"]
    return stem, texts, labels.index(raw["answerKey"].strip())


def arc(raw: Raw) -> Parts:
    """A question of a science exam."""
    stem, texts, gold = _school(raw)
    return _choices(f"Question: {stem}\nAnswer:", texts, gold)


def openbookqa(raw: Raw) -> Parts:
    """A question, asked without a word more."""
    return _choices(*_school(raw))


def winogrande(raw: Raw) -> Parts:
    """The sentence up to the gap with either filling; its rest is what is asked about (Trinh and Le 2018)."""
    before, _, after = raw["sentence"].partition("_")
    options = [raw["option1"], raw["option2"]]
    gold = int(raw["answer"]) - 1
    return [before + option for option in options], [f" {after.strip()}"] * 2, gold, options


def boolq(raw: Raw) -> Parts:
    """A passage and a question to be answered with yes or no."""
    label = raw["label"] if "label" in raw else raw["answer"]
    if label not in {0, 1}:  # False and True are 0 and 1
        raise ValueError(f"the answer {label!r} is neither true nor false")
    context = f"{raw['passage']}\nQuestion: {raw['question']}?\nAnswer:"
    return _choices(context, ["no", "yes"], int(label))


def social_iqa(raw: Raw) -> Parts:
    """A situation, a question on it and three answers."""
    context = f"Q: {raw['context']} {raw['question']}\nA:"
    return _choices(context, [raw["answerA"], raw["answerB"], raw["answerC"]], int(raw["label"]) - 1)


def lambada(raw: Raw) -> Parts:
    """A passage without its last word, and that word."""
    if "continuation" in raw:
        return [raw["context"].strip()], [f" {raw['continuation'].strip()}"], 0, [raw["continuation"].strip()]
    start, _, word = raw["text"].rpartition(" ")
    return [start], [f" {word}"], 0, [word]


def _list(raw: Raw, key: str) -> list[str]:
    if not isinstance(raw[key], list) or not raw[key]:
        raise TypeError(f"{key!r} holds no list of texts")
    return raw[key]


NORMED = ("acc", "acc_norm")
ANSWER = 'asked as "Question: ...\\nAnswer:", answers after a space'
_TABLE = [
    Task(
        "hellaswag",
        "hf:Rowan/hellaswag",
        "validation",
        "dev",
        hellaswag,
        NORMED,
        "as lm-evaluation-harness asks it: activity label and context, [title] and brackets removed, endings after a "
        "space; ctx_b capitalised where a record has ctx_a and ctx_b",
    ),
    Task(
        "hellaswag_completion",
        "hf:Rowan/hellaswag",
        "validation",
        "dev",
        hellaswag_completion,
        ("acc", "acc_norm_token"),
        "as GPT-alpha and build-nanogpt ask it: ctx as it stands, endings after a space, encoded apart",
        apart=True,
    ),
    Task("piqa", "hf:baber/piqa", "validation", "dev", piqa, NORMED, ANSWER),
    Task("arc_easy", "hf:allenai/ai2_arc:ARC-Easy", "test", "test", arc, NORMED, ANSWER),
    Task("arc_challenge", "hf:allenai/ai2_arc:ARC-Challenge", "test", "test", arc, NORMED, ANSWER),
    Task(
        "openbookqa",
        "hf:allenai/openbookqa:main",
        "test",
        "test",
        openbookqa,
        NORMED,
        "asked as the question alone, answers after a space",
    ),
    Task(
        "winogrande",
        "hf:allenai/winogrande:winogrande_xl",
        "validation",
        "dev",
        winogrande,
        ("acc",),
        "partial scoring: how likely the rest of the sentence is after either filling",
    ),
    Task(
        "boolq",
        "hf:aps/super_glue:boolq",
        "validation",
        "dev",
        boolq,
        ("acc",),
        'asked as "passage\\nQuestion: ...?\\nAnswer:", answers " no" and " yes"',
    ),
    Task(
        "social_iqa",
        "hf:lighteval/siqa",
        "validation",
        "dev",
        social_iqa,
        ("acc",),
        'asked as "Q: context question\\nA:", answers after a space',
    ),
    Task(
        "lambada",
        "hf:EleutherAI/lambada_openai",
        "test",
        "test",
        lambada,
        ("acc_greedy", "perplexity_of_words"),
        "the last word (after the last space) of a passage, OpenAI's version of the texts",
    ),
    Task("choice", "", "", "unknown", generic, NORMED, "asked as the record's query, answers after a space"),
]
TASKS = {task.name: task for task in _TABLE}
ALIASES = {"siqa": "social_iqa", "lambada_openai": "lambada", "hellaswag_lm_eval": "hellaswag"}
TEXTS = ("perplexity", "bits_per_byte")
"""What is measured on plain text; the second says nothing that depends on the tokenizer."""


def canonical(name: str) -> str:
    """The task a person means.

    Raises:
        ConfigError: there is none of this name, with the nearest; or this is several.
    """
    plain = name.replace("-", "_").lower()
    plain = ALIASES.get(plain, plain)
    known = (*TASKS, *TEXTS)
    if plain in known:
        return plain
    if "," in name:
        raise ConfigError(f"there is no task {name!r}: several are separated by spaces")
    alike = difflib.get_close_matches(plain, [*known, *ALIASES], n=3, cutoff=0.4)
    near = dict.fromkeys(ALIASES.get(one, one) for one in alike)
    meant = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(known)}"
    raise ConfigError(f"there is no task {name!r}; {meant}; harness:NAME asks lm-evaluation-harness")
