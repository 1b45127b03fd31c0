"""Tiny models with their tokenizer in a folder, and lm-evaluation-harness's own `hf` backend on the same weights."""

import json
from pathlib import Path

import pytest

from gptworks.evaluation import models
from gptworks.model import checkpoint
from gptworks.text.tokenizer import Tokenizer
from tests.conftest import VOCABULARY

HELLASWAG = [
    {
        "ind": i,
        "activity_label": "Baking [substeps] bread",
        "ctx_a": "A man is seen.",
        "ctx_b": f"he [title] mixes  {word}",
        "ctx": f"A man is seen. he mixes {word}",
        "endings": ["flour.", "a lot of flour [step] and water.", "the car into a wall.", "until it rises."],
        "label": str(i % 4),
        "split": "val",
    }
    for i, word in enumerate(
        ["water", "eggs and milk", "it", "a bowl of dough", "", "the very last of it all"]
    )
]
PIQA = [
    {"goal": f"To open {thing}", "sol1": "turn it.", "sol2": f"hit the {thing} with a hammer", "label": i % 2}
    for i, thing in enumerate(["a jar", "the door", "a nut", "boxes", "an egg"])
]
ARC = [
    {
        "id": str(i),
        "question": f"Which is {word}?",
        "choices": {"text": ["the sun", "a stone in the river", "rain"], "label": labels},
        "answerKey": labels[i % 3],
    }
    for i, (word, labels) in enumerate(
        [("hot", ["A", "B", "C"]), ("hard", ["1", "2", "3"]), ("wet", ["A", "B", "C"])]
    )
]
OPENBOOKQA = [
    {"question_stem": row["question"], "choices": row["choices"], "answerKey": row["answerKey"]}
    for row in ARC
]
WINOGRANDE = [
    {
        "sentence": f"The {a} hit the {b} since the _ was slow.",
        "option1": a,
        "option2": b,
        "answer": str(1 + i % 2),
    }
    for i, (a, b) in enumerate([("dog", "cat"), ("man", "car"), ("ball", "big wall")])
]
BOOLQ = [
    {"passage": f"A {thing} is round.", "question": f"is a {thing} round", "label": i % 2, "idx": i}
    for i, thing in enumerate(["ball", "wheel", "box"])
]
SOCIAL_IQA = [
    {
        "context": f"{name} ran home.",
        "question": "Why?",
        "answerA": "to eat",
        "answerB": "it was late",
        "answerC": "no",
        "label": str(1 + i % 3),
    }
    for i, name in enumerate(["Ann", "Bob", "Cem", "Dan"])
]
LAMBADA = [
    {"text": f"she looked at the {word} and then she took the {word}"} for word in ["cup", "tea", "big pan"]
]
RECORDS = {
    "hellaswag": HELLASWAG,
    "piqa": PIQA,
    "arc_easy": ARC,
    "openbookqa": OPENBOOKQA,
    "winogrande": WINOGRANDE,
    "boolq": BOOLQ,
    "social_iqa": SOCIAL_IQA,
    "lambada": LAMBADA,
}


def write_rows(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> dict[str, Path]:
    """A file for each task, in the shape of its Hub dataset."""
    folder = tmp_path_factory.mktemp("sets")
    return {name: write_rows(folder / f"{name}_val.jsonl", rows) for name, rows in RECORDS.items()}


THEIR_FILES = {
    "hellaswag": "hellaswag/hellaswag",
    "piqa": "piqa/piqa",
    "arc_easy": "arc/arc_easy",
    "openbookqa": "openbookqa/openbookqa",
    "winogrande": "winogrande/default",
    "boolq": "super_glue/boolq/default",
    "social_iqa": "siqa/siqa",
    "lambada": "lambada/lambada_openai",
}


@pytest.fixture(scope="session")
def harness_tasks(sets, tmp_path_factory) -> Path:
    """A folder of tasks local_*: lm-evaluation-harness's own, reading our files instead of the Hub."""
    import lm_eval.tasks

    theirs = Path(lm_eval.tasks.__file__).parent
    folder = tmp_path_factory.mktemp("tasks")
    for name, file in THEIR_FILES.items():
        split = "test" if name in {"lambada", "arc_easy", "openbookqa"} else "validation"
        task = {
            "include": str(theirs / f"{file}.yaml"),
            "task": f"local_{name}",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(sets[name])}},
            "training_split": None,
            "validation_split": None,
            "test_split": None,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task | {f"{split}_split": split}))  # JSON is YAML
    return folder


@pytest.fixture(scope="session")
def tokenizer(byte_tokenizer: Tokenizer) -> Tokenizer:
    """A token for each id of the tiny models."""
    more = [f"<{i}>" for i in range(VOCABULARY - byte_tokenizer.vocab_size)]
    return byte_tokenizer.with_special_tokens(more)


@pytest.fixture(scope="session")
def wide(tokenizer, tmp_path_factory) -> Path:
    """transformers' GPT-2 with room for whole questions, saved as people have it: model and tokenizer in a folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.conftest import END, livened

    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=192,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=END,
        eos_token_id=END,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("wide")
    livened(GPT2LMHeadModel(config)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session", params=["gpt2", "modern"])
def narrow(request, tokenizer, tmp_path_factory) -> Path:
    """A tiny model of each family, with a context of 48, too short for many questions."""
    theirs = request.getfixturevalue("tiny_gpt2" if request.param == "gpt2" else "tiny_qwen3")
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def open_ours(folder: Path):
    return checkpoint.load(folder), models.find(str(folder)).tokenizer


def open_theirs(folder: Path, batch_size: int = 4):
    """lm-evaluation-harness's `hf` backend."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size)
