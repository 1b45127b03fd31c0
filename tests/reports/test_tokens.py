import json

import numpy as np

from gptworks.data.dataset import Dataset
from gptworks.data.prepare import prepare
from gptworks.recipe import PrepareOptions
from gptworks.reports import tokens
from gptworks.reports.logs import read


def test_statistics_are_those_of_the_dataset_the_run_was_trained_on(tmp_path, logged, byte_tokenizer):
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text("aab" * (number + 1))
    options = PrepareOptions(
        sources=tuple(str(f) for f in tmp_path.glob("*.txt")), val_fraction=0.0, workers=1
    )
    prepare(options, byte_tokenizer, tmp_path / "dataset")
    dataset = Dataset.open(tmp_path / "dataset")
    run = logged()
    environment = {"dataset": str(dataset.path), "dataset_fingerprint": dataset.fingerprint}
    (run / "environment.json").write_text(json.dumps(environment))
    (found,) = tokens.datasets(read([run]))
    total = sum(3 * (n + 1) for n in range(12)) + 12
    assert found.facts["train"].startswith(f"{total} tokens in 12 documents")
    shares = {"a": 156 / total, "b": 78 / total, "<|endoftext|>": 12 / total}
    assert {name: round(share, 9) for name, share in found.top[:3]} == {
        n: round(s, 9) for n, s in shares.items()
    }
    entropy = -sum(share * np.log(share) for share in shares.values())
    assert found.facts["unigram entropy"] == f"{entropy:.3f} nats"
    split = dataset.split("train")
    assert sorted(tokens.document_lengths(split)) == [3 * (n + 1) + 1 for n in range(12)]


def test_a_different_dataset_in_the_same_place_is_ignored(tmp_path, logged, byte_tokenizer):
    (tmp_path / "a.txt").write_text("some text")
    prepare(
        PrepareOptions(sources=(str(tmp_path / "a.txt"),), val_fraction=0.0, workers=1),
        byte_tokenizer,
        tmp_path / "d",
    )
    run = logged()
    environment = {"dataset": str(tmp_path / "d"), "dataset_fingerprint": "an older one"}
    (run / "environment.json").write_text(json.dumps(environment))
    assert tokens.datasets(read([run])) == []
