import pytest


@pytest.mark.slow  # a network of the full size
def test_the_loss_after_so_many_minutes(benchmark, byte_tokenizer, tmp_path):
    byte_tokenizer.save(tmp_path / "bytes")
    text = tmp_path / "play.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 2000)
    result = benchmark(
        "mainline.py", "shakespeare", str(text), "--tokenizer", str(tmp_path / "bytes"), "--minutes", "0.3"
    )
    assert result["best_val_loss"] < 0.5 * result["untrained_val_loss"]
    assert result["tokens"] == result["steps"] * 1024
    assert result["seconds"] < 2 * 18
