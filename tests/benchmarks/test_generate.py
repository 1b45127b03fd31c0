import pytest


@pytest.mark.slow  # fresh interpreters with transformers
def test_generation_is_of_the_same_weights(benchmark):
    tiny = ["--n-layer", "1", "--vocab-size", "300", "--samples", "2", "--tokens", "8"]
    result = benchmark("generate.py", *tiny, "--seconds", "0.1", "--rounds", "1", "--dtypes", "fp32")
    table = result["table"]["fp32 x 2"]
    for row in table.values():
        assert row["greedy_agree"] == 8  # the networks agree, so the times are of the same work
        assert row["tokens_per_second"] == pytest.approx(2 / row["seconds_per_token"])
        floor = 4 * result["weights_read_a_token"] / result["read_bandwidth"]
        assert row["bandwidth_share"] == pytest.approx(floor / row["seconds_per_token"])
        assert row["cpu_seconds_per_token"] > 0
        assert row.keys() >= {"peak_memory", "memory_estimated", "speed_ratio"}
    assert table["transformers"]["speed_ratio"] == 1
