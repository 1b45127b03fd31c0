import random

import pytest

from gptworks.cli import main
from gptworks.evaluation import contamination
from gptworks.evaluation.questions import Question
from gptworks.results import read
from tests.evaluation.conftest import write_rows

WORDS = [f"{a}{b}" for a in ("ba", "ku", "ri", "mo") for b in ("na", "le", "sto", "pim", "ra")]


def said(chance, n):
    return " ".join(chance.choices(WORDS, k=n))


def slowly(items, documents):
    """Item -> documents that share 13 words in a row with it, by trying all."""
    found = {}
    for place, text in items:
        mine = text.lower().split()
        n = min(13, len(mine))
        grams = {" ".join(mine[i : i + n]) for i in range(len(mine) - n + 1)} if len(mine) >= 5 else set()
        hits = [
            name
            for name, document in documents
            if any(f" {gram} " in f" {document.lower()} " for gram in grams)
        ]
        if hits:
            found[place] = hits
    return found


def test_what_is_found_is_what_trying_everything_finds():
    chance = random.Random(0)
    items = [(f"f:{i}", said(chance, chance.randint(3, 40))) for i in range(60)]
    documents = []
    for i in range(40):
        text = said(chance, 60)
        if i % 3 == 0:  # part of an item, in the middle: sometimes long enough
            words = items[i][1].split()
            part = " ".join(words[: chance.randint(1, len(words))])
            text = f"{said(chance, 10)} {part.upper()} {text}"
        documents.append((f"train:{i}", text))
    questions = [Question(place, (text,), ("",)) for place, text in items]
    other, found = contamination.search([questions[:5], questions], documents)
    assert [hit.item for hit in other.hits] == [hit.item for hit in found.hits if hit.item in questions[:5]]
    assert {hit.item.place: hit.documents for hit in found.hits} == slowly(items, documents)
    assert 0 < len(found.hits) < len(items)
    assert found.too_short == sum(len(text.split()) < 5 for _, text in items)


def test_case_and_punctuation_hide_nothing():
    text = "The quick brown fox jumps over the lazy dog while seven wizards quietly watch"
    question = Question("f:1", ("Question: " + text,), (" them.",))
    written = text.upper().replace(" ", ",  ") + "... them"
    assert contamination.search([[question]], [("train:0", f"so. {written} all")])[0].hits
    assert not contamination.search([[question]], [("train:0", "so. " + " ".join(text.split()[:12]))])[0].hits


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chance = random.Random(1)
    goal, answer = said(chance, 20), said(chance, 5)
    clean = [
        {"goal": said(chance, 20), "sol1": said(chance, 5), "sol2": said(chance, 5), "label": 0}
        for _ in range(3)
    ]
    write_rows(
        tmp_path / "piqa_val.jsonl", [*clean, {"goal": goal, "sol1": "no", "sol2": answer, "label": 1}]
    )
    texts = [{"text": said(chance, 50)} for _ in range(20)]
    texts[7]["text"] += f" {goal} {answer} " + said(chance, 5)
    write_rows(tmp_path / "texts.jsonl", texts)
    assert (
        main(["tokenizer", "train", "--sources", "texts.jsonl", "--vocab-size", "300", "--out", "bpe"]) == 0
    )
    prepare = ["--sources", "texts.jsonl", "--tokenizer", "bpe", "--val-fraction", "0", "--workers", "1"]
    assert main(["prepare", *prepare, "--out", "set"]) == 0
    return tmp_path


def test_inspect_names_the_documents_and_scores_come_without_them(dataset, capsys):
    from gptworks.model import checkpoint
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions
    from gptworks.text.tokenizer import Tokenizer

    assert main(["inspect", "set", "--against", "piqa:piqa_val.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "1 of 4" in out
    (result,) = read(dataset / "set" / "results" / "contaminated-piqa.json")
    assert (result.value, result.n, result.split) == (0.25, 4, "dev")
    (item,) = result.details["items"]
    assert item["item"] == "piqa_val.jsonl:4"
    assert item["documents"] == ["train:7"]
    shape = ModelOptions(n_layer=1, n_head=1, n_embd=16, context=128)
    checkpoint.save(
        build(resolve_config(shape, 300), seed=0), dataset / "model", Tokenizer.load(dataset / "bpe")
    )
    without = ["--without", "set/results/contaminated-piqa.json", "--out", "all.json"]
    assert main(["evaluate", "model", "--tasks", "piqa:piqa_val.jsonl", *without]) == 0
    results = {result.metric: result for result in read(dataset / "all.json")}
    assert (results["acc"].n, results["acc_clean"].n) == (4, 3)
    assert "without the 1 item found in set" in results["acc_clean"].definition
    assert main(["inspect", "set"]) == 0  # a Dataset with results is a Dataset still


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set", "--against", "piqua:x"], "piqua"),
        (["set", "--against", "perplexity:texts.jsonl"], "perplexity"),
        (["bpe", "--against", "piqa:piqa_val.jsonl"], "bpe"),
    ],
)
def test_bad_input_is_refused_in_one_line(dataset, capsys, words, said):
    capsys.readouterr()
    assert main(["inspect", *words]) == 2
    assert said in capsys.readouterr().err
