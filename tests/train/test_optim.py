import math

import pytest
import torch
from torch import nn

from gptworks.recipe import OptimOptions
from gptworks.train.optim import (
    Muon,
    lr_factor,
    make_optimizers,
    orthogonalize,
    set_learning_rates,
    update,
)

CPU = torch.device("cpu")


def total_norm(model):
    return nn.utils.get_total_norm([param.grad for param in model.parameters()])


class Toy(nn.Module):
    """Parameters named like a model's."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.h = nn.ModuleList(
            [nn.ModuleDict({"c_attn": nn.Linear(8, 24), "c_fc": nn.Linear(8, 32)}) for _ in range(2)]
        )
        self.transformer = nn.ModuleDict({"h": self.h})

    def loss(self):
        return sum((p**3).sum() for p in self.parameters())


def toy(seed=0):
    torch.manual_seed(seed)
    model = Toy()
    del model.h  # registered under transformer.h, as in a real model
    return model


def train(model, options, steps=5, dtype=torch.float32):
    optimizers = make_optimizers(model.named_parameters(), options, CPU, dtype)
    for step in range(steps):
        sum((p**3).sum() for p in model.parameters()).backward()
        set_learning_rates(optimizers, options, lr_factor(step, steps, options))
        update(optimizers, total_norm(model), options.grad_clip, None)
        model.zero_grad()
    return model


def test_adamw_with_folded_clipping_equals_clip_grad_norm():
    options = OptimOptions(lr=1e-2, grad_clip=0.1, schedule="constant", weight_decay=0.1)
    ours = train(toy(), options)
    theirs = toy()
    named = list(theirs.named_parameters())
    groups = [
        {"params": [p for _, p in named if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(5):
        sum((p**3).sum() for p in theirs.parameters()).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_muon_equals_pytorchs_on_a_single_matrix():
    torch.manual_seed(0)
    ours, theirs = (
        nn.Parameter(torch.randn(24, 8, generator=torch.Generator().manual_seed(1))) for _ in range(2)
    )
    options = OptimOptions(name="muon", muon_lr=0.02, muon_momentum=0.95, weight_decay=0.1)
    a = Muon(
        [("transformer.h.0.mlp.c_fc.weight", ours)], options, torch.bfloat16
    )  # PyTorch iterates in bfloat16
    b = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True)
    for step in range(4):
        grad = torch.randn(24, 8, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=2e-3
    )  # bfloat16 has 8 bits; an update is about 0.02


def test_muon_orthogonalizes_query_key_and_value_separately():
    torch.manual_seed(0)
    fused = nn.Parameter(torch.zeros(24, 8))
    parts = [nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    grad = torch.randn(24, 8)
    options = OptimOptions(name="muon", weight_decay=0.0)
    fused.grad = grad.clone()
    Muon([("transformer.h.0.attn.c_attn.weight", fused)], options, torch.float32).step()
    for part, g in zip(parts, grad.split(8), strict=True):
        part.grad = g.clone()
    Muon(
        [(f"transformer.h.0.mlp.{i}.weight", part) for i, part in enumerate(parts)], options, torch.float32
    ).step()
    torch.testing.assert_close(fused, torch.cat([p.data for p in parts]), rtol=0, atol=1e-6)
    values = torch.linalg.svdvals(fused[:8] / options.muon_lr)
    assert values.min() > 0.5
    assert values.max() < 1.5


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_with_a_non_finite_gradient_changes_nothing(kind):
    options = OptimOptions(name=kind, lr=1e-2, schedule="constant")
    model = train(toy(), options, steps=2)
    optimizers = make_optimizers(model.named_parameters(), options, CPU, torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    assert update(optimizers, total_norm(model), options.grad_clip, None) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_only_the_blocks_matrices_go_to_muon():
    muon, adamw = make_optimizers(toy().named_parameters(), OptimOptions(name="muon"), CPU, torch.float32)
    assert sorted(tuple(p.shape) for p in muon.param_groups[0]["params"]) == [
        (24, 8),
        (24, 8),
        (32, 8),
        (32, 8),
    ]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 5  # embedding and four biases


def test_decay_all_decays_biases_too():
    groups = make_optimizers(
        toy().named_parameters(), OptimOptions(weight_decay_on="all"), CPU, torch.float32
    )[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # 003: lr * (i + 1) / warmup, then cosine to 4 %
        (
            {"schedule": "cosine", "warmup_steps": 4, "final_lr": 0.04},
            {0: 0.25, 3: 1.0, 4: 1.0, 52: 0.52, 100: 0.04},
        ),
        # 000: linear to zero
        ({"schedule": "linear", "final_lr": 0.0}, {0: 1.0, 50: 0.5, 100: 0.0}),
        # 001: constant
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        # 004: cos(pi (step - w) / 2N), zero at decay_steps beyond the end of the run
        (
            {"schedule": "quarter-cosine", "final_lr": 0.0, "decay_steps": 200},
            {0: 1.0, 100: math.cos(math.pi / 4), 200: 0.0},
        ),
        (
            {"schedule": "wsd", "cooldown": 0.2, "final_lr": 0.0, "warmup_steps": 10},
            {9: 1.0, 80: 1.0, 90: 0.5, 100: 0.0},
        ),
        # cosine to zero at decay_steps, and zero from there on
        ({"schedule": "cosine", "final_lr": 0.0, "decay_steps": 50}, {25: 0.5, 50: 0.0, 80: 0.0}),
    ],
)
def test_schedules(options, expected):
    for step, factor in expected.items():
        assert lr_factor(step, 100, OptimOptions(**options)) == pytest.approx(factor, abs=1e-12)


def test_warm_up_as_a_fraction_is_that_many_steps():
    steps, fraction = OptimOptions(warmup_steps=30), OptimOptions(warmup_fraction=0.3, warmup_steps=7)
    assert [lr_factor(i, 100, steps) for i in range(100)] == [lr_factor(i, 100, fraction) for i in range(100)]


def test_muon_in_float16_handles_tiny_and_huge_gradients():
    torch.manual_seed(0)
    x = torch.randn(1, 48, 32)
    exact = orthogonalize(x, torch.float32)
    for size in (1e-8, 1.0, 1e5):
        narrow = orthogonalize(x * size, torch.float16).float()
        # float16 has 11 bits; values stay below 1.2, and each of five iterations amplifies errors 3.4 times
        torch.testing.assert_close(narrow, exact, rtol=0, atol=0.05)
