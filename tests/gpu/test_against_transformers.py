"""Our step beside a plain loop over transformers' GPT-2, on every device there is."""

from typing import Any

import pytest
import torch

from gptworks.model import checkpoint
from gptworks.processes import World
from gptworks.recipe import OptimOptions, TrainOptions
from gptworks.train import parallel
from gptworks.train.precision import Precision
from gptworks.train.tasks import LanguageModelTask, language_batch
from gptworks.train.trainer import Plan, Trainer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STEPS, ROWS = 10, 4
OPTIONS = OptimOptions(lr=1e-3, schedule="constant", weight_decay=0.1, weight_decay_on="all")


@pytest.fixture
def exact_products():
    """Float32 as it is, not TensorFloat-32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def folder(tiny_gpt2, tmp_path):
    tiny_gpt2.save_pretrained(tmp_path)
    return tmp_path


def batches(model_config) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randint(model_config.vocab_size, (ROWS, model_config.context + 1)) for _ in range(STEPS)]


def our_losses(folder, device: str, precision: str, compiled: str) -> list[float]:
    world = World(0, 1, torch.device(device))
    model = checkpoint.load(folder, overrides={"dropout": 0.0})
    model = parallel.prepare(model, TrainOptions(compile=compiled), world)  # type: ignore[arg-type]
    plan = Plan(STEPS, ROWS, seed=0, precision=Precision(precision, world.device))  # type: ignore[arg-type]
    trainer = Trainer(model, LanguageModelTask(None), plan, OPTIONS, world)  # type: ignore[arg-type]
    return [
        trainer.train_step([language_batch(ids)]).loss.item()
        for ids in batches(checkpoint.read_config(folder))
    ]


def their_losses(folder, device: str, precision: str) -> list[float]:
    from transformers import GPT2LMHeadModel

    model: Any = GPT2LMHeadModel.from_pretrained(
        folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa"
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    numbers, losses = Precision(precision, torch.device(device)), []  # type: ignore[arg-type]
    for ids in batches(checkpoint.read_config(folder)):
        ids = ids.to(device)
        with numbers.autocast():
            logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_those_of_a_plain_loop_over_transformers(folder, device: str, exact_products):
    assert our_losses(folder, device, "fp32", "off") == pytest.approx(
        their_losses(folder, device, "fp32"), rel=0, abs=1e-4
    )


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_on_a_gpu_bf16_is_no_further_from_fp32_than_transformers_is(folder, compiled: str, exact_products):
    """Twice as far is allowed: the roundings of two programs differ."""
    exact = torch.tensor(their_losses(folder, "cuda", "fp32"))
    far = (torch.tensor(their_losses(folder, "cuda", "bf16")) - exact).abs().max()
    assert (torch.tensor(our_losses(folder, "cuda", "bf16", compiled)) - exact).abs().max() < 2 * far


@pytest.mark.gpu
def test_on_a_gpu_compiled_blocks_compute_the_same(folder, exact_products):
    assert our_losses(folder, "cuda", "fp32", "on") == pytest.approx(
        our_losses(folder, "cuda", "fp32", "off"), rel=0, abs=1e-4
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_qwen3"])
def test_logits_are_those_of_transformers(name: str, device: str, request, tmp_path, exact_products):
    model = request.getfixturevalue(name)
    model.save_pretrained(tmp_path)
    ours = checkpoint.load(tmp_path).to(device)
    ids = torch.randint(ours.config.vocab_size, (3, ours.config.context), device=device)
    with torch.no_grad():
        theirs = model.to(device)(ids).logits
        model.cpu()
        assert (ours.logits(ours(ids)) - theirs).abs().max() < 1e-4
