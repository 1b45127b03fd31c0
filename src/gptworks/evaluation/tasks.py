"""The built-in evaluation sets: where they come from, how a record becomes a question, and which metrics apply.

Prompts and metrics are lm-evaluation-harness's (lm_eval/tasks/*), so that scores compare with published ones;
`hellaswag_completion` is GPT-alpha's and build-nanogpt's variant. Zellers et al. 2019 (HellaSwag), Bisk et al. 2020
(PIQA), Clark et al. 2018 (ARC), Sakaguchi et al. 2020 (WinoGrande), Mihaylov et al. 2018 (OpenBookQA), Clark et al.
2019 (BoolQ), Sap et al. 2019 (Social IQa), Paperno et al. 2016 (LAMBADA).
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gptworks.data.json_files import Record
from gptworks.errors import ConfigError, DataError
from gptworks.evaluation.questions import Question
from gptworks.evaluation.scores import Split

RawRecord = dict[str, Any]
Parts = tuple[Sequence[str], Sequence[str], int, Sequence[str]]
"""Contexts, continuations, the index of the right answer, and the answers whose characters are counted."""


@dataclass(frozen=True)
class EvalTask:
    """An evaluation set."""

    name: str
    hub: str
    """hf:OWNER/NAME[:CONFIG]; empty if only files are read."""
    hub_split: str
    parts: Callable[[RawRecord], Parts]
    metrics: tuple[str, ...]
    prompt: str
    """The prompt in words, a part of the score's definition: scores with another wording are not comparable."""
    separately: bool = False
    """Encode the continuation without its context."""

    @property
    def split(self) -> Split:
        """The split of hub_split in our terms."""
        splits: dict[str, Split] = {"validation": "dev", "test": "test"}
        return splits.get(self.hub_split, "unknown")

    def question(self, record: Record) -> Question:
        """A record as a question.

        Raises:
            DataError: the record lacks a field, or one has the wrong shape.
        """
        try:
            contexts, continuations, gold, answers = self.parts(record.value)
            if not 0 <= gold < len(answers):
                raise ValueError(f"the right answer is number {gold + 1} of only {len(answers)}")
            lengths = tuple(len(answer) for answer in answers)
            if not all(lengths):
                raise ValueError("an answer is empty")
            return Question(record.place, tuple(contexts), tuple(continuations), gold, lengths)
        except KeyError as error:
            fields = ", ".join(map(str, record.value)) or "none"
            raise DataError(
                f"{record.place} lacks {error}, which {self.name} needs; its fields: {fields}"
            ) from None
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{record.place} is not a valid {self.name} record: {error}") from None


def _choices(context: str, answers: Sequence[str], gold: int) -> Parts:
    return [context] * len(answers), [f" {answer}" for answer in answers], gold, answers


def generic(raw: RawRecord) -> Parts:
    """`query` or `context`, `choices`, and `gold` or `label`: the format of llm-foundry and others."""
    context = raw["query"] if "query" in raw else raw["context"]
    return _choices(context, raw["choices"], int(raw["gold"] if "gold" in raw else raw["label"]))


def cleaned(text: str) -> str:
    """HellaSwag's text without WikiHow's markup, as in lm-evaluation-harness."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(raw: RawRecord) -> Parts:
    """Activity label and context, in two halves if the record has them."""
    halves = (
        f"{raw['ctx_a']} {raw['ctx_b'].capitalize()}" if "ctx_a" in raw and "ctx_b" in raw else raw["ctx"]
    )
    answers = [cleaned(ending) for ending in _list(raw, "endings")]
    return _choices(cleaned(f"{raw['activity_label']}: {halves}"), answers, int(raw["label"]))


def hellaswag_completion(raw: RawRecord) -> Parts:
    """Context and endings, unchanged."""
    return _choices(raw["ctx"], _list(raw, "endings"), int(raw["label"]))


def piqa(raw: RawRecord) -> Parts:
    """A goal and two solutions."""
    return _choices(f"Question: {raw['goal']}\nAnswer:", [raw["sol1"], raw["sol2"]], int(raw["label"]))


def _ai2(raw: RawRecord) -> tuple[str, list[str], int]:
    """Question, answers and the right index, from AI2's two formats: the Hub's and the original files'."""
    if isinstance(inner := raw.get("question"), dict):
        choices = inner["choices"]
        stem, texts, labels = inner["stem"], [c["text"] for c in choices], [c["label"] for c in choices]
    else:
        stem = raw["question_stem"] if "question_stem" in raw else raw["question"]
        texts, labels = raw["choices"]["text"], raw["choices"]["label"]
    return stem, texts, labels.index(raw["answerKey"].strip())


def arc(raw: RawRecord) -> Parts:
    """A question from a science exam."""
    stem, texts, gold = _ai2(raw)
    return _choices(f"Question: {stem}\nAnswer:", texts, gold)


def openbookqa(raw: RawRecord) -> Parts:
    """A question without any added words."""
    return _choices(*_ai2(raw))


def winogrande(raw: RawRecord) -> Parts:
    """The sentence up to the gap with either option; the rest of it is scored (partial scoring, Trinh and Le 2018)."""
    before, _, after = raw["sentence"].partition("_")
    options = [raw["option1"], raw["option2"]]
    gold = int(raw["answer"]) - 1
    return [before + option for option in options], [f" {after.strip()}"] * 2, gold, options


def boolq(raw: RawRecord) -> Parts:
    """A passage with a yes/no question."""
    label = raw["label"] if "label" in raw else raw["answer"]
    if label not in {0, 1}:  # False and True are 0 and 1
        raise ValueError(f"the answer {label!r} is neither true nor false")
    context = f"{raw['passage']}\nQuestion: {raw['question']}?\nAnswer:"
    return _choices(context, ["no", "yes"], int(label))


def social_iqa(raw: RawRecord) -> Parts:
    """A situation, a question about it and three answers."""
    context = f"Q: {raw['context']} {raw['question']}\nA:"
    return _choices(context, [raw["answerA"], raw["answerB"], raw["answerC"]], int(raw["label"]) - 1)


def lambada(raw: RawRecord) -> Parts:
    """A passage without its last word, and the word."""
    if "continuation" in raw:
        return [raw["context"].strip()], [f" {raw['continuation'].strip()}"], 0, [raw["continuation"].strip()]
    start, _, word = raw["text"].rpartition(" ")
    return [start], [f" {word}"], 0, [word]


def _list(raw: RawRecord, key: str) -> list[str]:
    if not isinstance(raw[key], list) or not raw[key]:
        raise TypeError(f"{key!r} is not a list of texts")
    return raw[key]


ACC_AND_NORM = ("acc", "acc_norm")
QUESTION_ANSWER = 'asked as "Question: ...\\nAnswer:", answers after a space'
_TABLE = [
    EvalTask(
        "hellaswag",
        "hf:Rowan/hellaswag",
        "validation",
        hellaswag,
        ACC_AND_NORM,
        "as lm-evaluation-harness asks it: activity label and context, [title] and brackets removed, endings after a "
        "space; ctx_b capitalised where a record has ctx_a and ctx_b",
    ),
    EvalTask(
        "hellaswag_completion",
        "hf:Rowan/hellaswag",
        "validation",
        hellaswag_completion,
        ("acc", "acc_norm_token"),
        "as GPT-alpha and build-nanogpt ask it: ctx as it stands, endings after a space, encoded apart",
        separately=True,
    ),
    EvalTask("piqa", "hf:baber/piqa", "validation", piqa, ACC_AND_NORM, QUESTION_ANSWER),
    EvalTask("arc_easy", "hf:allenai/ai2_arc:ARC-Easy", "test", arc, ACC_AND_NORM, QUESTION_ANSWER),
    EvalTask("arc_challenge", "hf:allenai/ai2_arc:ARC-Challenge", "test", arc, ACC_AND_NORM, QUESTION_ANSWER),
    EvalTask(
        "openbookqa",
        "hf:allenai/openbookqa:main",
        "test",
        openbookqa,
        ACC_AND_NORM,
        "asked as the question alone, answers after a space",
    ),
    EvalTask(
        "winogrande",
        "hf:allenai/winogrande:winogrande_xl",
        "validation",
        winogrande,
        ("acc",),
        "partial scoring: how likely the rest of the sentence is after either filling",
    ),
    EvalTask(
        "boolq",
        "hf:aps/super_glue:boolq",
        "validation",
        boolq,
        ("acc",),
        'asked as "passage\\nQuestion: ...?\\nAnswer:", answers " no" and " yes"',
    ),
    EvalTask(
        "social_iqa",
        "hf:lighteval/siqa",
        "validation",
        social_iqa,
        ("acc",),
        'asked as "Q: context question\\nA:", answers after a space',
    ),
    EvalTask(
        "lambada",
        "hf:EleutherAI/lambada_openai",
        "test",
        lambada,
        ("acc_greedy", "perplexity_of_words"),
        "the last word (after the last space) of a passage, OpenAI's version of the texts",
    ),
    EvalTask("choice", "", "", generic, ACC_AND_NORM, "asked as the record's query, answers after a space"),
]
TASKS = {task.name: task for task in _TABLE}
ALIASES = {"siqa": "social_iqa", "lambada_openai": "lambada", "hellaswag_lm_eval": "hellaswag"}
TEXTS = ("perplexity", "bits_per_byte")
"""Measures of plain text; the second does not depend on the tokenizer."""


def canonical(name: str) -> str:
    """A task's name, from any spelling of it.

    Raises:
        ConfigError: there is no such task.
    """
    plain = name.replace("-", "_").lower()
    plain = ALIASES.get(plain, plain)
    known = (*TASKS, *TEXTS)
    if plain in known:
        return plain
    if "," in name:
        raise ConfigError(f"there is no task {name!r}; separate tasks with spaces")
    matches = difflib.get_close_matches(plain, [*known, *ALIASES], n=3, cutoff=0.4)
    near = dict.fromkeys(ALIASES.get(match, match) for match in matches)
    hint = f"did you mean {', '.join(near)}?" if near else f"the tasks are {', '.join(known)};"
    raise ConfigError(f"there is no task {name!r}; {hint} Use harness:NAME for lm-evaluation-harness's tasks")
