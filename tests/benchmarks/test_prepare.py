import pytest


@pytest.mark.slow  # datasets and its workers
def test_preparing_beside_tiktoken_and_datasets(benchmark, corpus, byte_tokenizer, tmp_path):
    pytest.importorskip("datasets")
    byte_tokenizer.save(tmp_path / "bytes")
    result = benchmark("prepare.py", str(corpus), "--tokenizer", str(tmp_path / "bytes"))
    rates = result["megabytes_per_second"]
    assert rates.keys() == {"gptworks prepare", "tiktoken alone", "datasets.map"}
    assert min(rates.values()) > 0
