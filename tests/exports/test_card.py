"""What a model card says, and what it keeps to itself."""

import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from gptworks.exports import card
from gptworks.model import sizing
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions

CONFIG = resolve_config(ModelOptions(n_layer=2, n_head=2, n_embd=64, context=128), 512)

SCORE = {
    "task": "perplexity:/home/alice/secret/notes.txt",
    "metric": "bits_per_byte",
    "value": 1.2345,
    "interval_95": [1.2, 1.27],
    "n": 321,
    "split": "test",
    "shots": 0,
    "data": "/home/alice/secret/notes.txt",
    "definition": "bits of /home/alice/secret/notes.txt over its UTF-8 bytes",
}

FACTS = card.ModelFacts(
    repo="you/small",
    config=CONFIG,
    tokenizer="byte-level BPE, 512 ids",
    kind="pretraining",
    step=100,
    tokens=204_800,
    seconds=7200.0,
    val_loss=2.5,
    environment={
        "gptworks": "0.1.0",
        "torch": "2.13",
        "device": "an H100",
        "processes": 2,
        "dataset": "/home/alice/secret/set",
        "dataset_fingerprint": "0123456789abcdef",
    },
    recipe={"data": "/home/alice/secret/set", "eval": {"tasks": ["perplexity:/home/alice/secret/notes.txt"]}},
    scores=[SCORE],
    license="mit",
)


def test_it_says_what_is_known():
    text = card.write(FACTS)
    flops = 204_800 * sizing.flops_per_token(CONFIG)
    for said in (
        "| tokens | 204,800, including repetitions |",
        f"| FLOPs | {flops:.3g} (",
        "| time | 2.00 hours |",
        "| hardware | 2 x an H100 |",
        "| energy | not measured |",
        "| validation loss | 2.5000 nats |",
        "| perplexity:notes.txt | bits_per_byte | 1.234 | 1.2 to 1.27 | 321 | notes.txt | test | 0 |",
        "- bits_per_byte of perplexity:notes.txt: bits of notes.txt over its UTF-8 bytes",
        "| data | set (fingerprint 0123456789ab) |",
        'data = "set"',
        "A base language model",
    ):
        assert said in text
    assert "| energy | 1 kWh |" in card.write(replace(FACTS, joules=3.6e6))


def test_of_several_scores_of_one_task_the_one_of_most_examples_is_kept():
    acc = {
        "task": "piqa",
        "metric": "acc",
        "split": "dev",
        "data": "hf:baber/piqa",
        "definition": "d",
        "shots": 0,
    }
    few = acc | {"value": 0.4, "n": 29, "limit": 29}
    part = acc | {"value": 0.5, "n": 100, "limit": 100, "notes": ["2 of 100 contexts cut"]}
    text = card.write(replace(FACTS, scores=[part, few]))
    (result,) = ModelCard(text).data.eval_results
    assert (result.metric_value, result.dataset_name) == (0.5, "hf:baber/piqa (first 100)")
    assert "| piqa | acc | 0.5 | not known | 100 | hf:baber/piqa (first 100) | dev | 0 |" in text
    assert "- acc of piqa: d; 2 of 100 contexts cut" in text
    assert "| 29 |" not in text


@pytest.mark.parametrize(("seconds", "said"), [(1.2, "1 second"), (21, "21 seconds"), (600, "10.0 minutes")])
def test_short_times_are_said_in_minutes_or_seconds(seconds, said):
    assert f"| time | {said} |" in card.write(replace(FACTS, seconds=seconds))


def test_the_hubs_own_reader_understands_it():
    found = ModelCard(card.write(FACTS)).data
    assert (found.license, found.library_name, found.pipeline_tag) == (
        "mit",
        "transformers",
        "text-generation",
    )
    (result,) = found.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == (
        "bits_per_byte",
        1.2345,
        "notes.txt",
    )
    assert ModelCard(card.write(replace(FACTS, license="all mine"))).data.license is None
    assert (
        ModelCard(card.write(replace(FACTS, base="openai-community/gpt2"))).data.base_model
        == "openai-community/gpt2"
    )


def test_a_folder_here_is_no_base_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "small").mkdir(parents=True)
    for base in ("runs/a", "models/small", "models"):
        text = card.write(replace(FACTS, base=base))
        assert ModelCard(text).data.base_model is None
        assert f"| from | {base.rpartition('/')[2]} |" in text


def test_what_is_not_known_is_not_made_up():
    text = card.write(card.ModelFacts(repo="you/bare", config=CONFIG, tokenizer="x"))
    assert "how it was trained | not known" in text
    assert "No scores" in text
    assert "Not stated" in text
    assert "## Recipe" not in text


def test_nothing_of_the_machine_is_in_it():
    recipe = {
        "data": "C:\\Users\\alice\\set",
        "out": "../../alice/runs/a",
        "tokenizer": "~/alice/bpe",
        "base": "/mnt/alice/model",
        "prepare": {"sources": ["/home/alice/a.txt", "hf:owner/name:config", "deep/alice/folder/b.txt"]},
    }
    text = card.write(replace(FACTS, recipe=recipe, base="/mnt/alice/model"))
    assert "alice" not in text
    assert "secret" not in text
    assert not re.search(r"(^|[\s\"'(])(/|~|\.\./)\w", text.partition("## Model")[2])
    assert "hf:owner/name:config" in text


@pytest.mark.parametrize(
    "value", ["openai-community/gpt2", "hf:owner/name", "https://a.b/c", "6N / 12", "and/or", 3, True]
)
def test_what_is_no_place_stays(value):
    assert card.strip_folders(value) == value
