import pytest

STEP = {
    "seconds_per_step",
    "cpu_seconds_per_step",
    "tokens_per_second",
    "share_outside",
    "mfu",
    "peak_memory",
    "rows",
    "precision",
}
QUICK = ("--sizes", "tiny", "--seconds", "0.1", "--rounds", "1")

OUTSIDER = """
import torch

def make(size, ids):
    model = torch.nn.Embedding(size["vocab_size"], size["n_embd"])
    def step():
        model(ids).sum().backward()
    return step
"""


@pytest.mark.slow  # a fresh interpreter each
def test_ours_and_an_outsider_are_in_one_table(benchmark, tmp_path):
    (tmp_path / "outsider.py").write_text(OUTSIDER)
    result = benchmark("train.py", *QUICK, "--contenders", "gptworks", "--adapter", "embedding=outsider:make")
    ours, theirs = result["table"]["tiny"]["gptworks"], result["table"]["tiny"]["embedding"]
    assert ours.keys() >= STEP | {"memory_estimated", "memory_added"}
    assert theirs.keys() >= STEP
    for row in (ours, theirs):
        assert row["tokens_per_second"] == pytest.approx(4 * 32 / row["seconds_per_step"])
        assert 0 <= row["share_outside"] < 1
        assert row["cpu_seconds_per_step"] > 0
    mfu = ours["tokens_per_second"] * flops_per_token() / result["gemm_peak_flops"]
    assert ours["mfu"] == pytest.approx(mfu)


def flops_per_token() -> int:
    """6N + 12LCT of the tiny size, N counted on the network itself: without the table of positions."""
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions

    shape = ModelOptions(n_layer=2, n_head=2, n_embd=32, context=32)
    weights = dict(build(resolve_config(shape, 300), seed=0).named_parameters())
    padding = (-300 % 128) * 32
    n = sum(p.numel() for name, p in weights.items() if "wpe" not in name) - padding
    return 6 * n + 12 * 2 * 32 * 32


@pytest.mark.slow  # a fresh interpreter each
@pytest.mark.parametrize("contender", ["transformers", "trainer"])
def test_transformers_is_what_ratios_are_quoted_against(benchmark, contender: str):
    row = benchmark("train.py", *QUICK, "--contenders", contender)["table"]["tiny"][contender]
    assert row.keys() >= STEP
    assert row["speed_ratio"] == row["memory_ratio"] == 1
