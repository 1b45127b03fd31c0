"""Plans against figures that were published or can be worked out by hand."""

from dataclasses import replace

import pytest
import torch

from gptworks.errors import ConfigError
from gptworks.model.config import resolve
from gptworks.plan import devices, needs, traffic
from gptworks.recipe import ModelOptions, Recipe, TrainOptions


def job(preset="gpt2", **train):
    recipe = Recipe(model=ModelOptions(preset=preset), train=TrainOptions(**{"max_steps": 1000} | train))
    return needs.work(recipe, resolve(recipe.model, 50257), None)


def device(name, **train):
    return devices.named(name, TrainOptions(**train))


def test_gpt_alphas_published_rate_is_its_published_mfu():
    """38.85 % of 312 TFLOP/s, and 3.696 s a step of 524,288 tokens, on one A100 (GPT-alpha's paper)."""
    pace = needs.time(job(batch_tokens=524_288), device("a100-40gb"), mfu=0.3885)
    assert 524_288 / pace.tokens_per_second == pytest.approx(3.696, rel=0.01)
    again = needs.time(job(batch_tokens=524_288), device("a100"), mfu=None, measured=524_288 / 3.696)
    assert again.mfu == pytest.approx(0.3885, rel=0.01)
    assert not again.assumed
    ratio = (6 * 123_653_376 + 6 * 12 * 768 * 1024) / (6 * 123_653_376 + 12 * 12 * 768 * 1024)
    assert again.mfu_causal / again.mfu == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "count", "memory", "kind"),
    [("8GB", 1, 8e9, "cuda"), ("8gbx2", 2, 8e9, "cuda"), ("h100x8", 8, 80e9, "cuda"), ("A100-40GBx4", 4, 40e9, "cuda"),
     ("4090", 1, 24e9, "cuda"), ("l40s", 1, 48e9, "cuda")],
)  # fmt: skip
def test_a_device_is_named_as_people_name_it(name, count, memory, kind):
    found = device(name)
    assert (found.count, found.memory, found.kind) == (count, memory, kind)


@pytest.mark.parametrize("name", ["h1000", "x8", "8", "h100x0", "GB", "8GBx"])
def test_an_unknown_device_is_refused_with_those_that_are_known(name):
    with pytest.raises(
        ConfigError, match=f"--device {name} is not known: give cpu, .*8GB, or one of h200, h100"
    ):
        device(name)


def test_old_gpus_take_fp16_and_this_processor_is_measured():
    assert device("t4").precision.name == device("v100").precision.name == "fp16"
    assert device("h100").precision.name == "bf16"
    cpu = device("cpu", precision="fp32")
    assert cpu.kind == "cpu"
    assert cpu.peak > 1e6  # measured, on however busy a machine
    assert 0 < cpu.memory


def test_the_way_out_is_the_first_of_the_stated_order_that_fits():
    gpt2 = job(micro_batch=64, batch_tokens=65_536)
    assert needs.way_out(gpt2, device("80gb")) is None
    assert needs.way_out(gpt2, device("16gb")).startswith("--train.micro-batch ")
    assert "checkpoint" not in needs.way_out(gpt2, device("16gb"))
    tight = needs.way_out(job("gpt2-medium"), device("8.5gb"))
    assert "--train.checkpoint-activations" in tight
    assert "parallel" not in tight
    assert needs.way_out(job("gpt2-xl"), device("24gbx8")).endswith("--train.parallel zero1")
    assert needs.way_out(job("gpt2-xl"), device("16gb")).endswith("--train.parallel fsdp on 8 such devices")
    assert (  # gradients stay whole while micro-batches add to them
        needs.way_out(job("gpt2-xl"), device("8gb")) == "a smaller --model.preset, n-layer, n-embd or context"
    )


@pytest.mark.parametrize(("preset", "name"), [("gpt2", "16gb"), ("gpt2-medium", "8.5gb")])
def test_what_is_named_does_fit_and_one_row_more_does_not(preset, name):
    one, small = job(preset, micro_batch=512), device(name)
    words = needs.way_out(one, small).split()
    rows = int(words[1])
    lean = replace(one.recipe.train, micro_batch=rows, checkpoint_activations=len(words) > 2)
    fitting = replace(one, recipe=replace(one.recipe, train=lean))
    assert needs.memory(fitting, small).fits
    more = replace(fitting, recipe=replace(one.recipe, train=replace(lean, micro_batch=rows + 1)))
    assert not needs.memory(more, small).fits


def test_a_planned_micro_batch_fits_and_leaves_the_batch_as_it_is():
    found = needs.facts(job(), device("8gb"), None, hours=None)
    assert found["fits"]
    assert found["memory_total"] == sum(found["memory"].values()) <= found["memory_room"] == 7.2e9
    assert found["micro_batch"] * found["micro_batches"] >= 512 > found["micro_batch"]


def test_devices_share_as_training_shares():
    one, eight = job("gpt2-medium"), device("24gbx8")
    alone, zero1 = needs.fit_of(one, eight, 4, "ddp").parts, needs.fit_of(one, eight, 4, "zero1").parts
    assert alone == needs.fit_of(one, device("24gb"), 4, "none").parts
    assert zero1 == alone | {"optimizer": -(-alone["optimizer"] // 8)}
    fsdp = needs.fit_of(one, eight, 4, "fsdp").parts
    assert fsdp["optimizer"] == zero1["optimizer"]
    assert fsdp["weights"] < alone["weights"] / 2
    assert fsdp["activations"] == alone["activations"]


def test_a_ring_sends_what_the_formula_says():
    config = resolve(ModelOptions(preset="gpt2"), 50257)
    weights = 124_439_808
    assert traffic.of_a_step(config, 1, "ddp").total == 0
    assert traffic.of_a_step(config, 8, "ddp").total == 2 * 7 / 8 * 4 * weights
    zero1 = traffic.of_a_step(config, 8, "zero1")
    assert (zero1.beside, zero1.after) == (2 * 7 / 8 * 4 * weights, 7 / 8 * 4 * weights)
    blocks = 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    outside = weights - blocks  # gathered once, and in float32
    wide = traffic.of_a_step(config, 8, "fsdp").total
    assert wide == 7 / 8 * 4 * (weights + outside + 2 * blocks)
    narrow = traffic.of_a_step(config, 8, "fsdp", gathered=2, reshard=False, micro_batches=3).total
    assert narrow == 7 / 8 * (4 * weights + 3 * (4 * outside + 2 * blocks))


def test_traffic_hides_behind_computing_until_it_is_longer_than_the_backward_pass():
    much, little = job(batch_tokens=4_194_304), job(batch_tokens=65_536)
    alone = needs.time(much, device("h100"), mfu=0.4)
    eight = needs.time(much, device("h100x8"), mfu=0.4)
    assert eight.tokens_per_second == pytest.approx(8 * alone.tokens_per_second)
    slow = needs.time(little, replace(device("h100x512"), link=1e9), mfu=0.4)
    assert slow.tokens_per_second < 0.1 * 512 * alone.tokens_per_second


def test_costs_are_hours_times_prices():
    made = {"hours": 2.0, "devices": 8, "device": "H100"}
    assert needs.costs(made, 700.0, 3.0, 0.5) == {
        "device_hours": 16.0, "energy_kwh": 11.2, "cost": pytest.approx(3 * 16 + 0.5 * 11.2)
    }  # fmt: skip
    assert needs.costs({"hours": None}, 700.0, 3.0, None) == {}
    with pytest.raises(ConfigError, match="needs --watts"):
        needs.costs(made, None, None, 0.5)


def test_the_estimate_is_the_one_that_training_goes_by():
    from gptworks.train import fit

    one = job(micro_batch=4)
    here = replace(device("8gb"), kind="cuda")
    parts = fit.training(one.recipe, one.config, 4, here.precision)
    assert needs.memory(one, here).parts == parts
    assert here.precision.device == torch.device("cuda")


@pytest.mark.parametrize(
    ("preset", "name"),
    [("gpt2", "124 M"), ("gpt2-medium", "355 M"), ("gpt2-large", "774 M"), ("gpt2-xl", "1.5 B")],
)
def test_the_guides_table_is_what_the_formula_says(preset, name, repository):
    one = job(preset, batch_tokens=524_288)
    cells = [name]
    ways = [("ddp", 4), ("zero1", 4), ("fsdp", 4), ("fsdp", 2)]
    bytes_ = [traffic.of_a_step(one.config, 8, how, gathered=size).total for how, size in ways]
    cells += [f"{sent / 1e9:.2f}" for sent in bytes_]
    for count in (8, 32, 128, 512):
        pace = needs.time(one, replace(device("h100"), count=count), mfu=0.4)
        cells.append(f"{pace.traffic_seconds * 1e3:.0f} / {pace.step_seconds * 1e3:.0f}")
    assert f"| {' | '.join(cells)} |" in (repository / "docs" / "planning.md").read_text()
