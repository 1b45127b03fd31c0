import pytest
import torch

from gptworks.model import lora
from gptworks.processes import World
from gptworks.recipe import LoraOptions, TrainOptions
from gptworks.train import parallel
from tests.model.parity import some_ids
from tests.model.test_lora import FAMILIES, tiny, trained
from tests.model.test_memory import kept_bytes

ALONE = World(0, 1, torch.device("cpu"))


def ready(family, adapted, *, checkpointed, dropout=0.1):
    model = tiny(family, dropout=dropout, dropout_at=("embedding", "attention_out", "mlp_out"))
    if adapted:
        model = trained(model, LoraOptions(rank=4, dropout=dropout))
    return parallel.prepare(
        model.train(), TrainOptions(checkpoint_activations=checkpointed, compile="off"), ALONE
    )


def gradients(model):
    torch.manual_seed(0)
    model.logits(model(some_ids())).square().mean().backward()
    return {name: param.grad for name, param in model.named_parameters() if param.grad is not None}


@FAMILIES
@pytest.mark.parametrize("adapted", [False, True])
def test_checkpointed_activations_give_the_same_gradients_with_dropout_and_frozen_bases(family, adapted):
    plain = gradients(ready(family, adapted, checkpointed=False))
    again = gradients(ready(family, adapted, checkpointed=True))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    if adapted:
        assert {name.rpartition(".")[2] for name in again} == {"lora_A", "lora_B"}
    else:
        assert len(again) == len(list(tiny(family).parameters()))


@FAMILIES
def test_checkpointing_keeps_only_the_inputs_of_blocks(family):
    """With two blocks: (B, T, C) each, and the layers around them; without checkpointing, many times as much."""
    ids = some_ids()
    one = 4 * ids.numel() * 32
    plain, kept = (
        ready(family, adapted=False, checkpointed=checkpointed, dropout=0.0) for checkpointed in (False, True)
    )
    assert kept_bytes(lambda: kept(ids)) < 6 * one
    assert kept_bytes(lambda: plain(ids)) > 20 * one


def test_parameter_names_and_outputs_do_not_change():
    model = ready("gpt2", adapted=True, checkpointed=True).eval()
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in trained(tiny(), LoraOptions(rank=4)).named_parameters()
    ]
    assert len(list(lora.adapters(model))) == 8
    with torch.no_grad():
        assert torch.equal(
            model(some_ids()), ready("gpt2", adapted=True, checkpointed=False).eval()(some_ids())
        )
