import numpy as np
import pytest
import torch

from gptworks.errors import ConfigError, ResourceError
from gptworks.model import memory
from gptworks.model.config import resolve_config
from gptworks.processes import World
from gptworks.recipe import ClassifyOptions, LoraOptions, ModelOptions, OptimOptions, Recipe, TrainOptions
from gptworks.train import classifying, fit
from gptworks.train.precision import Precision
from gptworks.train.tasks import LabelledTexts

CPU = torch.device("cpu")


def needs(*, lengths=(100,) * 32, rank=0, **train):
    config = resolve_config(ModelOptions(preset="gpt2"), 50257)
    recipe = Recipe(
        train=TrainOptions(**train), lora=LoraOptions(rank=rank), classify=ClassifyOptions(batch_examples=32)
    )
    rows = LabelledTexts([np.zeros(n, int) for n in lengths], np.zeros(len(lengths), int), 0, 256)
    return classifying.memory_needs(recipe, config, ("a", "b"), rows, Precision("fp32", CPU))


def chosen(work, free, monkeypatch, rows=32):
    monkeypatch.setattr(fit, "memory_available", lambda device: free)
    return fit.choose_finetune_micro_batch(work, rows, World(0, 1, CPU))


def test_the_micro_batch_is_the_whole_step_if_it_fits_and_smaller_if_not(monkeypatch):
    assert chosen(needs(), None, monkeypatch)[0] == 32
    assert chosen(needs(), 50e9, monkeypatch)[0] == 32
    fewer, parts = chosen(needs(), 3.5e9, monkeypatch)
    assert 1 < fewer < 32
    assert sum(parts.values()) <= fit.MAX_FILL * 3.5e9 < needs().total(fewer + 1)


def test_the_micro_batch_stops_growing_once_the_device_is_busy(monkeypatch):
    assert chosen(needs(lengths=(1000,) * 32), None, monkeypatch)[0] == 8


def test_packed_short_texts_need_no_memory_for_padding():
    work = needs(lengths=(200, *[10] * 31))
    assert work.tokens(32) < 700  # 510 real ones; padded they would be 6,400


def test_a_requested_micro_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch):
    with pytest.raises(ResourceError, match=r"3,200 tokens .* --train.micro-batch \d+ would"):
        chosen(needs(micro_batch=32), 3.5e9, monkeypatch)
    with pytest.raises(ConfigError, match=r"train\.micro_batch=0"):
        chosen(needs(micro_batch=0), None, monkeypatch)


@pytest.mark.parametrize(
    ("free", "way_out"),
    [
        (1.6e9, r"--train.micro-batch 1 --train.checkpoint-activations --lora.rank 8 would fit, in 0.6 GB"),
        (0.62e9, r"--train.checkpoint-activations --lora.rank 8 --lora.base-dtype \w+ would fit"),
        (0.3e9, r"0.3 GB are free: use a smaller --model"),
    ],
)
def test_if_not_even_one_text_fits_the_error_names_a_smaller_configuration(monkeypatch, free, way_out):
    with pytest.raises(ResourceError, match=r"1 example of 100 tokens .*" + way_out):
        chosen(needs(), free, monkeypatch)


@pytest.mark.parametrize(("kind", "part"), [("zero1", "optimizer"), ("fsdp", "weights")])
def test_sharding_reduces_the_memory_of_each_process(kind, part):
    """GPT-2 small. ZeRO-1 shards the moments; FSDP also the weights, except embeddings and two gathered blocks."""
    config = resolve_config(ModelOptions(preset="gpt2"), 50257)
    alone = memory.training(config, 1, optimizer="adamw", dtype="fp32")
    recipe = Recipe(train=TrainOptions(parallel=kind))
    parts = fit.per_process(alone, recipe, config, processes=8)
    assert fit.per_process(alone, recipe, config, processes=1) == alone
    assert parts["gradients"] == alone["gradients"]
    assert parts["optimizer"] == -(-alone["optimizer"] // 8)
    if kind == "zero1":
        assert {name for name in alone if parts[name] != alone[name]} == {"optimizer"}
    else:
        blocks = 12 * 4 * 12 * 768**2
        outside = alone["weights"] - blocks
        assert parts["weights"] == pytest.approx(alone["weights"] / 8 + outside + blocks / 6, rel=0.01)


@pytest.mark.parametrize(("family", "alike"), [("gpt2", 1), ("modern", 2)])
def test_pretraining_on_a_cpu_adds_torch_s_memory_and_muon_s_batches_beyond_the_activations(family, alike):
    shape = ModelOptions(family=family, n_layer=3, n_head=2, n_embd=64, n_inner=128, context=8)
    config = resolve_config(shape, 100)

    def added(kind, device):
        recipe = Recipe(optim=OptimOptions(name=kind))
        parts = fit.training_memory(recipe, config, 2, Precision("fp32", torch.device(device)))
        known = memory.training(config, 2, optimizer=kind, dtype="fp32", device=device)
        passing = known["activations"] + known[memory.WORK]
        return {name: parts[name] for name in parts if name not in known}, passing

    matrices = 3 * (4 * 64 * 64 + (2 if family == "gpt2" else 3) * 64 * 128)
    stacks = 4 * (2 * matrices + 5 * 3 * alike * 64 * 128)  # gate and up are of one shape
    adamw, passing = added("adamw", "cpu")
    assert adamw == {
        "libraries": fit.TORCH_BYTES["fp32"],
        "heap between tensors": int(fit.HEAP_OVERHEAD * passing),
    }
    muon, _ = added("muon", "cpu")
    assert muon == adamw | {"Muon's products": stacks - passing}
    assert added("muon", "cuda") == ({}, passing)
