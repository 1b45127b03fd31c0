import importlib

import pytest


@pytest.mark.slow  # datasets and its workers
def test_preparing_beside_tiktoken_and_datasets(benchmark, corpus, byte_tokenizer, tmp_path):
    pytest.importorskip("datasets")
    byte_tokenizer.save(tmp_path / "bytes")
    more = ["--bpe-vocab", "300", "--bpe-mb", "0.01"]
    result = benchmark("prepare.py", str(corpus), "--tokenizer", str(tmp_path / "bytes"), *more)
    assert result["bpe"]["seconds"] > 0
    assert result["bpe"]["peak_memory"] > 1e6
    rates = result["megabytes_per_second"]
    assert rates.keys() == {"gptworks prepare", "tiktoken alone", "datasets.map"}
    assert min(rates.values()) > 0


def test_what_lies_in_folders_becomes_a_file_of_distinct_texts(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    collect, texts_of = (
        getattr(importlib.import_module("prepare"), name) for name in ("collect", "texts_of")
    )

    texts = ["a line of text\n" * n for n in (20, 30, 40)]
    for number, text in enumerate([*texts, texts[0], "short"]):
        (tmp_path / f"{number}.py").write_text(text)
    (tmp_path / "no.py").write_bytes(b"\xff" * 300)
    collect([tmp_path], 1e9, tmp_path / "all.jsonl.zst")
    assert texts_of(tmp_path / "all.jsonl.zst", 10**9) == texts
