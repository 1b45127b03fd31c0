import pytest

from gptworks.data.prepare import prepare
from gptworks.recipe import PrepareOptions

RECIPE = """
[model]
n_layer = 1
n_head = 1
n_embd = 8
context = 16
[train]
max_steps = 20
batch_tokens = 128
[optim]
lr = 1e-4
[eval]
every = 5
tokens = 256
"""


@pytest.mark.slow  # two trainings
def test_loss_of_two_recipes_on_one_dataset(benchmark, corpus, byte_tokenizer, tmp_path):
    options = PrepareOptions(sources=(str(corpus),), val_fraction=0.1, workers=1)
    dataset = prepare(options, byte_tokenizer, tmp_path / "set")
    (tmp_path / "slow.toml").write_text(RECIPE)
    (tmp_path / "changed.toml").write_text(
        '[quick]\nfrom = "slow.toml"\nmodel.n_embd = 16\noptim.lr = 1e-2\n'
    )
    recipes = [str(tmp_path / name) for name in ("slow.toml", "changed.toml")]
    result = benchmark("loss.py", *recipes, "--data", str(dataset.path), "--runs", str(tmp_path / "runs"))
    slow, quick = result["runs"]["slow"], result["runs"]["quick"]
    for run in (slow, quick):
        points = run["curve"]
        assert [point["tokens"] for point in points] == [0, 5 * 128, 10 * 128, 15 * 128, 20 * 128]
        assert points[-1]["flops"] == 20 * 128 * run["flops_per_token"]
        assert [point["seconds"] for point in points] == sorted(point["seconds"] for point in points)
    assert (slow["recipe"]["model"]["n_embd"], slow["recipe"]["optim"]["lr"]) == (8, 1e-4)
    assert (quick["recipe"]["model"]["n_embd"], quick["recipe"]["optim"]["lr"]) == (16, 1e-2)
    assert slow["times_less"]["flops"] == pytest.approx(1)
    assert quick["times_less"]["tokens"] > 1  # a hundred times the learning rate
    assert list((tmp_path / "out").glob("*loss*.png"))
    assert result["dataset_fingerprint"] == dataset.fingerprint
