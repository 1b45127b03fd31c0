import numpy as np
import pytest
import torch

from gptworks.errors import ConfigError, ResourceError
from gptworks.model import memory
from gptworks.model.config import resolve
from gptworks.recipe import ClassifyOptions, LoraOptions, ModelOptions, OptimOptions, Recipe, TrainOptions
from gptworks.train import classifying, fit
from gptworks.train.precision import Precision
from gptworks.train.tasks import Labelled
from gptworks.world import World

CPU = torch.device("cpu")


def needs(*, lengths=(100,) * 32, rank=0, **train):
    config = resolve(ModelOptions(preset="gpt2"), 50257)
    recipe = Recipe(
        train=TrainOptions(**train), lora=LoraOptions(rank=rank), classify=ClassifyOptions(batch=32)
    )
    rows = Labelled([np.zeros(n, int) for n in lengths], np.zeros(len(lengths), int), 0, 256)
    return classifying.memory_needs(recipe, config, ("a", "b"), rows, Precision("fp32", CPU))


def chosen(work, free, monkeypatch, rows=32):
    monkeypatch.setattr(fit, "memory_available", lambda device: free)
    return fit.finetuning(work, rows, World(0, 1, CPU))


def test_a_whole_step_goes_at_once_where_it_fits_and_less_where_it_does_not(monkeypatch):
    assert chosen(needs(), None, monkeypatch)[0] == 32
    assert chosen(needs(), 50e9, monkeypatch)[0] == 32
    fewer, parts = chosen(needs(), 3.5e9, monkeypatch)
    assert 1 < fewer < 32
    assert sum(parts.values()) <= fit.SHARE * 3.5e9 < needs().total(fewer + 1)


def test_many_tokens_keep_the_device_busy_and_more_only_cost_memory(monkeypatch):
    assert chosen(needs(lengths=(1000,) * 32), None, monkeypatch)[0] == 8


def test_short_texts_share_rows_so_that_their_padding_takes_nothing():
    work = needs(lengths=(200, *[10] * 31))
    assert work.tokens(32) < 700  # 510 real ones; padded they would be 6,400


def test_what_was_asked_for_and_does_not_fit_is_refused_with_what_would(monkeypatch):
    with pytest.raises(
        ResourceError, match=r"3,200 tokens at once needs about \d.* --train.micro-batch \d+ would"
    ):
        chosen(needs(micro_batch=32), 3.5e9, monkeypatch)
    with pytest.raises(ConfigError, match="micro_batch=0 must be auto or at least 1"):
        chosen(needs(micro_batch=0), None, monkeypatch)


@pytest.mark.parametrize(
    ("free", "way_out"),
    [
        (1.6e9, r"--train.micro-batch 1 --train.checkpoint-activations --lora.rank 8 would fit, in 0.6 GB"),
        (0.62e9, r"--train.checkpoint-activations --lora.rank 8 --lora.base-bits \d+ would fit"),
        (0.3e9, r"0.3 GB are free: take a smaller --model"),
    ],
)
def test_where_not_even_one_text_fits_something_smaller_is_named(monkeypatch, free, way_out):
    with pytest.raises(ResourceError, match=r"training with 1 example of 100 tokens .*" + way_out):
        chosen(needs(), free, monkeypatch)


@pytest.mark.parametrize(("kind", "part"), [("zero1", "optimizer"), ("fsdp", "weights")])
def test_what_processes_share_takes_less_of_each(kind, part):
    """Of GPT-2 small: the moments; of weights, all but the embeddings and the two blocks that are gathered."""
    config = resolve(ModelOptions(preset="gpt2"), 50257)
    alone = memory.training(config, 1, optimizer="adamw", dtype="fp32")
    recipe = Recipe(train=TrainOptions(parallel=kind))
    parts = fit.shared(alone, recipe, config, processes=8)
    assert fit.shared(alone, recipe, config, processes=1) == alone
    assert parts["gradients"] == alone["gradients"]
    assert parts["optimizer"] == -(-alone["optimizer"] // 8)
    if kind == "zero1":
        assert {name for name in alone if parts[name] != alone[name]} == {"optimizer"}
    else:
        blocks = 12 * 4 * 12 * 768**2
        outside = alone["weights"] - blocks
        assert parts["weights"] == pytest.approx(alone["weights"] / 8 + outside + blocks / 6, rel=0.01)


@pytest.mark.parametrize(("family", "alike"), [("gpt2", 1), ("modern", 2)])
def test_pretraining_on_a_cpu_takes_torch_s_own_memory_and_muon_s_stacks_where_activations_were(
    family, alike
):
    shape = ModelOptions(family=family, n_layer=3, n_head=2, n_embd=64, n_inner=128, context=8)
    config = resolve(shape, 100)

    def added(kind, device):
        recipe = Recipe(optim=OptimOptions(kind=kind))
        parts = fit.training(recipe, config, 2, Precision("fp32", torch.device(device)))
        known = memory.training(config, 2, optimizer=kind, dtype="fp32", device=device)
        passing = known["activations"] + known[memory.WORK]
        return {name: parts[name] for name in parts if name not in known}, passing

    matrices = 3 * (4 * 64 * 64 + (2 if family == "gpt2" else 3) * 64 * 128)
    stacks = 4 * (2 * matrices + 5 * 3 * alike * 64 * 128)  # gate and up are of one shape
    adamw, passing = added("adamw", "cpu")
    assert adamw == {"libraries": fit.LIBRARIES["fp32"], "heap between tensors": int(fit.HEAP * passing)}
    muon, _ = added("muon", "cpu")
    assert muon == adamw | {"Muon's products": stacks - passing}
    assert added("muon", "cuda") == ({}, passing)
