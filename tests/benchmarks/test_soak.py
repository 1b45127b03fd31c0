"""The soak's arithmetic, on curves whose slope is known, and one run of seconds."""

import importlib.util

import pytest


@pytest.fixture
def soak(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    spec = importlib.util.spec_from_file_location("soak", repository / "benchmarks" / "soak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_leak_is_seen_and_a_warm_up_is_not(soak):
    def sample(second, rss, files=8):
        return {"seconds": second, "rss": rss, "files": files, "threads": 2}

    flat = [sample(s, 1e6 * min(s, 300)) for s in range(0, 3600, 5)]
    assert soak.judge(flat)["rss_megabytes"]["slope_per_hour"] == pytest.approx(0, abs=1e-6)
    leaking = [sample(s, 300e6 + 1e3 * s, files=8 + s // 600) for s in range(0, 3600, 5)]
    found = soak.judge(leaking)
    assert found["rss_megabytes"]["slope_per_hour"] == pytest.approx(3.6)
    assert found["open_files"]["most"] == 13


@pytest.mark.slow  # half a minute
def test_it_trains_evaluates_and_saves_while_it_is_watched(benchmark):
    result = benchmark("soak.py", "--minutes", "0.2", "--every", "0.5")
    assert result["steps"] > 100
    assert result["evaluations"] > 2
    assert result["checkpoints_left"] <= 4
    assert result["samples"] > 1
