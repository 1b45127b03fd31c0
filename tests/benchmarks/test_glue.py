import pytest


@pytest.mark.slow  # four fresh interpreters with torch
def test_a_task_beside_one_text_at_a_time(benchmark):
    size = ("--size", "tiny", "--examples", "32", "--batch", "16", "--rounds", "1")
    table = benchmark("glue.py", *size)["table"]
    for what in ("training", "prediction"):
        ours, theirs = table[f"{what}, gptworks"], table[f"{what}, one at a time"]
        assert ours["tokens"] == theirs["tokens"]  # the same texts
        assert theirs["ours_is_faster"] == pytest.approx(
            ours["samples_per_second"] / theirs["samples_per_second"]
        )
