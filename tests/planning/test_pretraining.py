"""Plans against figures that were published or can be worked out by hand."""

from dataclasses import replace

import pytest
import torch

from gptworks.errors import ConfigError
from gptworks.model.config import resolve_config
from gptworks.planning import pretraining, traffic
from gptworks.planning.hardware import parse_hardware
from gptworks.recipe import ModelOptions, Recipe, TrainOptions


def job(preset="gpt2", **train):
    recipe = Recipe(model=ModelOptions(preset=preset), train=TrainOptions(**{"max_steps": 1000} | train))
    return pretraining.workload(recipe, resolve_config(recipe.model, 50257), None)


def hardware(name, **train):
    return parse_hardware(name, TrainOptions(**train))


def test_gpt_alphas_published_rate_is_its_published_mfu():
    """38.85 % of 312 TFLOP/s, and 3.696 s a step of 524,288 tokens, on one A100 (GPT-alpha's paper)."""
    speed = pretraining.estimate_speed(job(batch_tokens=524_288), hardware("a100-40gb"), mfu=0.3885)
    assert 524_288 / speed.tokens_per_second == pytest.approx(3.696, rel=0.01)
    again = pretraining.estimate_speed(
        job(batch_tokens=524_288), hardware("a100"), mfu=None, measured=524_288 / 3.696
    )
    assert again.mfu == pytest.approx(0.3885, rel=0.01)
    assert not again.assumed
    ratio = (6 * 123_653_376 + 6 * 12 * 768 * 1024) / (6 * 123_653_376 + 12 * 12 * 768 * 1024)
    assert again.mfu_causal / again.mfu == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "count", "memory", "kind"),
    [("8GB", 1, 8e9, "cuda"), ("8gbx2", 2, 8e9, "cuda"), ("h100x8", 8, 80e9, "cuda"), ("A100-40GBx4", 4, 40e9, "cuda"),
     ("4090", 1, 24e9, "cuda"), ("l40s", 1, 48e9, "cuda")],
)  # fmt: skip
def test_hardware_is_parsed_from_its_common_names(name, count, memory, kind):
    found = hardware(name)
    assert (found.count, found.memory, found.kind) == (count, memory, kind)


@pytest.mark.parametrize("name", ["h1000", "x8", "8", "h100x0", "GB", "8GBx"])
def test_unknown_hardware_is_refused_with_the_known_names(name):
    with pytest.raises(ConfigError, match=f"--hardware {name} .*8GB.*h200, h100"):
        hardware(name)


def test_old_gpus_take_fp16_and_this_processor_is_measured():
    assert hardware("t4").precision.name == hardware("v100").precision.name == "fp16"
    assert hardware("h100").precision.name == "bf16"
    cpu = hardware("cpu", precision="fp32")
    assert cpu.kind == "cpu"
    assert cpu.peak > 1e6  # measured, on however busy a machine
    assert 0 < cpu.memory


def test_the_suggested_change_is_the_first_in_order_that_fits():
    gpt2 = job(micro_batch=64, batch_tokens=65_536)
    assert pretraining.smallest_change(gpt2, hardware("80gb")) is None
    assert pretraining.smallest_change(gpt2, hardware("16gb")).startswith("--train.micro-batch ")
    assert "checkpoint" not in pretraining.smallest_change(gpt2, hardware("16gb"))
    tight = pretraining.smallest_change(job("gpt2-medium"), hardware("8.5gb"))
    assert "--train.checkpoint-activations" in tight
    assert "parallel" not in tight
    assert pretraining.smallest_change(job("gpt2-xl"), hardware("24gbx8")).endswith("--train.parallel zero1")
    assert pretraining.smallest_change(job("gpt2-xl"), hardware("16gb")).endswith(
        "--train.parallel fsdp on 8 such devices"
    )
    assert (  # gradients stay whole while micro-batches add to them
        pretraining.smallest_change(job("gpt2-xl"), hardware("8gb"))
        == "a smaller --model.preset, n-layer, n-embd or context"
    )


@pytest.mark.parametrize(("preset", "name"), [("gpt2", "16gb"), ("gpt2-medium", "8.5gb")])
def test_the_suggested_micro_batch_fits_and_one_more_row_does_not(preset, name):
    one, small = job(preset, micro_batch=512), hardware(name)
    words = pretraining.smallest_change(one, small).split()
    rows = int(words[1])
    lean = replace(one.recipe.train, micro_batch=rows, checkpoint_activations=len(words) > 2)
    fitting = replace(one, recipe=replace(one.recipe, train=lean))
    assert pretraining.memory(fitting, small).fits
    more = replace(fitting, recipe=replace(one.recipe, train=replace(lean, micro_batch=rows + 1)))
    assert not pretraining.memory(more, small).fits


def test_a_planned_micro_batch_fits_and_leaves_the_batch_as_it_is():
    found = pretraining.facts(job(), hardware("8gb"), None, hours=None)
    assert found["fits"]
    assert found["memory_total"] == sum(found["memory"].values()) <= found["memory_room"] == 7.2e9
    assert found["micro_batch"] * found["micro_batches"] >= 512 > found["micro_batch"]


def test_memory_is_sharded_as_in_training():
    one, eight = job("gpt2-medium"), hardware("24gbx8")
    alone, zero1 = (
        pretraining.memory_fit(one, eight, 4, "ddp").parts,
        pretraining.memory_fit(one, eight, 4, "zero1").parts,
    )
    assert alone == pretraining.memory_fit(one, hardware("24gb"), 4, "none").parts
    assert zero1 == alone | {"optimizer": -(-alone["optimizer"] // 8)}
    fsdp = pretraining.memory_fit(one, eight, 4, "fsdp").parts
    assert fsdp["optimizer"] == zero1["optimizer"]
    assert fsdp["weights"] < alone["weights"] / 2
    assert fsdp["activations"] == alone["activations"]


def test_a_ring_sends_what_the_formula_says():
    config = resolve_config(ModelOptions(preset="gpt2"), 50257)
    weights = 124_439_808
    assert traffic.step_traffic(config, 1, "ddp").total == 0
    assert traffic.step_traffic(config, 8, "ddp").total == 2 * 7 / 8 * 4 * weights
    zero1 = traffic.step_traffic(config, 8, "zero1")
    assert (zero1.overlapped, zero1.exposed) == (2 * 7 / 8 * 4 * weights, 7 / 8 * 4 * weights)
    blocks = 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    outside = weights - blocks  # gathered once, and in float32
    wide = traffic.step_traffic(config, 8, "fsdp").total
    assert wide == 7 / 8 * 4 * (weights + outside + 2 * blocks)
    narrow = traffic.step_traffic(
        config, 8, "fsdp", gathered_bytes=2, reshard_after_forward=False, micro_batches=3
    ).total
    assert narrow == 7 / 8 * (4 * weights + 3 * (4 * outside + 2 * blocks))


def test_traffic_hides_behind_computing_until_it_is_longer_than_the_backward_pass():
    much, little = job(batch_tokens=4_194_304), job(batch_tokens=65_536)
    alone = pretraining.estimate_speed(much, hardware("h100"), mfu=0.4)
    eight = pretraining.estimate_speed(much, hardware("h100x8"), mfu=0.4)
    assert eight.tokens_per_second == pytest.approx(8 * alone.tokens_per_second)
    slow = pretraining.estimate_speed(little, replace(hardware("h100x512"), link=1e9), mfu=0.4)
    assert slow.tokens_per_second < 0.1 * 512 * alone.tokens_per_second


def test_costs_are_hours_times_prices():
    made = {"hours": 2.0, "devices": 8, "device": "H100"}
    assert pretraining.costs(made, 700.0, 3.0, 0.5) == {
        "device_hours": 16.0, "energy_kwh": 11.2, "cost": pytest.approx(3 * 16 + 0.5 * 11.2)
    }  # fmt: skip
    assert pretraining.costs({"hours": None}, 700.0, 3.0, None) == {}
    with pytest.raises(ConfigError, match="needs --watts"):
        pretraining.costs(made, None, None, 0.5)


def test_the_estimate_is_the_one_that_training_uses():
    from gptworks.train import fit

    one = job(micro_batch=4)
    here = replace(hardware("8gb"), kind="cuda")
    parts = fit.training_memory(one.recipe, one.config, 4, here.precision)
    assert pretraining.memory(one, here).parts == parts
    assert here.precision.device == torch.device("cuda")


@pytest.mark.parametrize(
    ("preset", "name"),
    [("gpt2", "124 M"), ("gpt2-medium", "355 M"), ("gpt2-large", "774 M"), ("gpt2-xl", "1.5 B")],
)
def test_the_guides_table_is_what_the_formula_says(preset, name, repository):
    one = job(preset, batch_tokens=524_288)
    cells = [name]
    ways = [("ddp", 4), ("zero1", 4), ("fsdp", 4), ("fsdp", 2)]
    bytes_ = [
        traffic.step_traffic(one.config, 8, parallel, gathered_bytes=size).total for parallel, size in ways
    ]
    cells += [f"{sent / 1e9:.2f}" for sent in bytes_]
    for count in (8, 32, 128, 512):
        speed = pretraining.estimate_speed(one, replace(hardware("h100"), count=count), mfu=0.4)
        cells.append(f"{speed.traffic_seconds * 1e3:.0f} / {speed.compute_seconds * 1e3:.0f}")
    assert f"| {' | '.join(cells)} |" in (repository / "docs" / "planning.md").read_text()
