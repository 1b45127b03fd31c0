import pytest


@pytest.mark.slow  # two servers
def test_the_server_and_transformers_answer_the_same_requests(benchmark):
    tiny = ["--n-layer", "1", "--vocab-size", "300", "--clients", "3", "--requests", "2", "--tokens", "4"]
    result = benchmark("serve.py", *tiny, "--rounds", "1")
    rows = result["table"]["3 clients"]
    assert rows.keys() == {"gptworks", "transformers", "transformers batch"}
    for row in rows.values():
        assert row["requests"] == 6
        assert 0 < row["first_token_median"] <= row["request_median"]
        assert row["tokens_per_second"] > 0
    theirs = rows["transformers"]["tokens_per_second"], rows["transformers batch"]["tokens_per_second"]
    assert max(theirs) * rows["gptworks"]["speed_ratio"] == rows["gptworks"]["tokens_per_second"]
