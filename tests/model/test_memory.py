"""Estimates against what PyTorch is seen to keep."""

import pytest
import torch
from torch import Tensor

from gptworks.model import memory
from gptworks.model.build import build
from gptworks.model.cache import KVCache
from gptworks.model.config import resolve
from gptworks.recipe import ModelOptions

SHAPES = {
    "gpt2": ModelOptions(n_layer=4, n_head=4, n_embd=128, context=128),
    "gpt2 with dropout": ModelOptions(
        n_layer=4,
        n_head=4,
        n_embd=128,
        context=128,
        dropout=0.1,
        dropout_at=("embedding", "attention_out", "mlp_out"),
    ),
    "modern": ModelOptions(family="modern", n_layer=4, n_head=4, n_embd=128, n_kv_head=2, context=128),
}


def kept_bytes(run) -> int:
    """Memory of the tensors that autograd keeps for backward, each counted once, parameters not."""
    seen: dict[int, int] = {}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not isinstance(tensor._base, torch.nn.Parameter):
            kept.append(tensor)  # or its address might be used again
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(seen.values())


@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_autograd_keeps(name: str):
    """Within a tenth: norms' statistics and masks are small, and not counted."""
    config = resolve(SHAPES[name], 500)
    model = build(config, seed=0).train()
    ids = torch.zeros(4, 128, dtype=torch.long)
    estimate = memory.training(config, 4, optimizer="adamw", dtype="fp32")["activations"]
    assert 0.9 < kept_bytes(lambda: model(ids)) / estimate < 1.1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weights_gradients_and_moments_are_exact(kind):
    config = resolve(SHAPES["gpt2"], 500)
    model = build(config, seed=0)
    parts = memory.training(config, 1, optimizer=kind, dtype="fp32")
    weights = sum(p.nbytes for p in model.parameters())
    assert parts["weights"] == parts["gradients"] == weights
    matrices = sum(p.nbytes for name, p in model.named_parameters() if ".h." in name and p.dim() == 2)
    assert parts["optimizer"] == 2 * weights - (matrices if kind == "muon" else 0)


def test_what_is_frozen_has_neither_gradient_nor_moments():
    config = resolve(ModelOptions(preset="gluept-small", frozen_embedding="gpt2"), 50257)
    parts = memory.training(config, 1, optimizer="adamw", dtype="fp32")
    assert parts["gradients"] == 4 * 85_056_000
    assert parts["optimizer"] == 2 * parts["gradients"]


def test_activations_grow_with_rows_and_shrink_with_narrow_types():
    config = resolve(ModelOptions(preset="gpt2"), 50257)
    one, four = (memory.training(config, n, optimizer="adamw", dtype="fp32")["activations"] for n in (1, 4))
    assert four == 4 * one
    assert memory.training(config, 1, optimizer="adamw", dtype="bf16")["activations"] < 0.7 * one


def test_the_cache_is_exact():
    config = resolve(SHAPES["modern"], 500)
    cache = KVCache(config, 3, 100, torch.bfloat16, "cpu")
    assert memory.generation(config, 3, 100, dtype="bf16")["cache"] == cache.keys.nbytes + cache.values.nbytes
