import dataclasses
import json

import numpy as np
import pytest
import torch

from gptworks.data.conversations import load, prompt_key
from gptworks.data.order import derive_seed
from gptworks.errors import ConfigError
from gptworks.model import checkpoint
from gptworks.processes import World
from gptworks.recipe import InstructOptions, LoraOptions, Recipe, TrainOptions
from gptworks.text.templates import Chat
from gptworks.text.vocabulary import IGNORE
from gptworks.train import instructing
from tests.model.test_lora import tiny

WORLD = World(0, 1, torch.device("cpu"))
SHORT = "{% for m in messages %}{{ m.content }}{{ '>' if m.role == 'user' else eos_token }}{% endfor %}"


@pytest.fixture
def recipe(tmp_path, byte_tokenizer):
    checkpoint.save(tiny(), tmp_path / "base", byte_tokenizer)
    rows = [{"instruction": f"{n} {'x' * (n % 20)}", "output": f"answer {n}"} for n in range(120)]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    options = InstructOptions(template=SHORT, batch_examples=10, val_fraction=0.1, test_fraction=0.2)
    return Recipe(
        base=str(tmp_path / "base"), data=tmp_path / "data.json", out=tmp_path / "run", instruct=options
    )


def settled(recipe):
    return instructing.resolve_recipe(recipe, load(recipe.data, recipe.instruct), WORLD)


def test_no_step_ever_reads_what_is_held_out(recipe):
    """Every token a run could train on is compared with every question of validation and test."""
    work = settled(recipe)
    held = {
        split: {prompt_key(one) for one in work.encoded[split].conversations} for split in ("val", "test")
    }
    assert len(held["val"]) > 3
    assert len(held["test"]) > 10
    assert not held["val"] & held["test"]
    seen = set()
    for step in range(2 * work.task.steps_per_epoch):
        batch = work.task.batch(work.task.rows(step).tolist())
        for row in batch["ids"]:
            question = work.tokenizer.decode(row.tolist()).partition(">")[0]
            seen.add(" ".join(question.split()) + "\0")
    assert seen == {prompt_key(one) for one in work.encoded["train"].conversations}
    assert not seen & (held["val"] | held["test"])


def test_every_pass_sees_every_example_once_and_the_order_is_a_function(recipe):
    task = settled(recipe).task
    n = len(task.lengths)
    first = np.concatenate([task.rows(step) for step in range(task.steps_per_epoch)])
    assert sorted(first) == list(range(n))
    assert (
        task.rows(task.steps_per_epoch + 1).tolist()
        == settled(recipe).task.rows(task.steps_per_epoch + 1).tolist()
    )
    lengths = task.lengths[task.rows(0)]
    assert (np.diff(lengths) >= 0).all()
    assert derive_seed(0, 0) != derive_seed(0, 1)


def test_validation_is_the_mean_over_learned_tokens_however_it_is_batched(recipe):
    work = settled(recipe)
    model = checkpoint.load(checkpoint.find_checkpoint(recipe.base))
    total, count = 0.0, 0
    chat = Chat(work.tokenizer)
    for one in work.encoded["val"].conversations:  # one by one, by the definition
        ids, learned = chat.encode(one)
        row = torch.tensor([ids])
        with torch.no_grad():
            nats = -model.logits(model(row[:, :-1])).log_softmax(-1).gather(2, row[:, 1:, None])[0, :, 0]
        keep = torch.tensor(learned[1:])
        total, count = total + nats[keep].sum().item(), count + int(keep.sum())
    for packing in ("on", "off"):
        for size in (1, 5):
            options = dataclasses.replace(recipe.instruct, packing=packing)
            asks = dataclasses.replace(
                recipe, instruct=options, train=TrainOptions(micro_batch=size, precision="fp32")
            )
            assert settled(asks).losses["val"](model)["val_loss"] == pytest.approx(total / count, rel=1e-5)


def test_with_adapters_only_they_are_trained_unless_tokens_are_new(recipe):
    def trained(**options):
        adapting = dataclasses.replace(recipe, lora=LoraOptions(rank=2), instruct=InstructOptions(**options))
        model = settled(adapting).model
        return {name for name, param in model.named_parameters() if param.requires_grad}

    assert all(".lora_" in name for name in trained(template=SHORT))
    other = {name for name in trained(template="chatml") if ".lora_" not in name}
    assert other == {"transformer.wte.weight"}


def test_everything_may_be_learned(recipe):
    everything = dataclasses.replace(recipe, instruct=dataclasses.replace(recipe.instruct, mask_prompt=False))
    masked, whole = settled(recipe), settled(everything)
    for targets, row in zip(whole.encoded["train"].targets, whole.encoded["train"].rows, strict=True):
        assert targets.tolist() == row[1:].tolist()
    assert any((targets == IGNORE).any() for targets in masked.encoded["train"].targets)


def test_too_long_for_the_model(recipe):
    asks = dataclasses.replace(recipe, instruct=dataclasses.replace(recipe.instruct, max_tokens=49))
    with pytest.raises(ConfigError, match="--max-tokens 49 is more than the model's context of 48"):
        settled(asks)
