import pytest


@pytest.mark.slow  # a profiler
def test_kernels_of_a_step(benchmark):
    result = benchmark("kernels.py", "--size", "tiny")
    times = [row["milliseconds"] for row in result["kernels"]]
    assert len(times) == 10
    assert times == sorted(times, reverse=True)
    assert {row["name"] for row in result["products"]} >= {"aten::mm"}
    assert result.keys() >= {"seconds_per_step", "busy_share", "gemm_peak_flops"}
