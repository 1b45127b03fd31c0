import pytest


@pytest.mark.slow  # four loops, two of them the Trainer's
def test_classifying_beside_the_trainer_and_one_at_a_time(benchmark):
    result = benchmark("finetune.py", "--size", "tiny", "--examples", "48", "--batch", "16", "--rounds", "1")
    table = result["table"]
    assert table.keys() == {"gptworks", "trainer", "trainer tuned", "one at a time"}
    assert len({row["tokens"] for row in table.values()}) == 1  # the same texts
    ours = table["gptworks"]["samples_per_second"]
    for name, row in table.items():
        assert row["ours_is_faster"] == pytest.approx(ours / row["samples_per_second"])
        assert row["cpu_seconds_per_sample"] > 0
        assert row["peak_memory"] > 0
        assert row["goal"] == {"trainer": 2, "trainer tuned": 1.2, "one at a time": 5}.get(name)
