import pytest
import torch

from gptworks.errors import ConfigError
from gptworks.model import checkpoint, lora
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import LoraOptions, ModelOptions
from tests.conftest import CONTEXT, VOCABULARY
from tests.model.parity import logits, some_ids

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": CONTEXT, "init_std": 0.2}
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "modern"])


def tiny(family="gpt2", **options):
    return build(resolve_config(ModelOptions(family=family, **SHAPE | options), VOCABULARY), seed=0).eval()


def trained(model, options, seed=0):
    """Adapters that do something, as after training."""
    lora.attach(model, options, seed=seed)
    chance = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for _, layer in lora.adapters(model):
            layer.lora_B.normal_(0, 0.3, generator=chance)
    return model


def close(a, b):
    return float((a - b).abs().max() / b.abs().max()) < 1e-5


@FAMILIES
def test_fresh_adapters_change_nothing(family):
    model = tiny(family)
    before = logits(model, some_ids())
    lora.attach(model, LoraOptions(rank=4), seed=0)
    assert torch.equal(logits(model, some_ids()), before)


@FAMILIES
def test_every_linear_layer_of_every_block_is_adapted_and_nothing_else_trained(family):
    model = tiny(family)
    inside = lora.linear_names(model)
    lora.attach(model, LoraOptions(rank=4), seed=0)
    assert [name for name, _ in lora.adapters(model)] == inside
    assert len(inside) == 2 * (4 if family == "gpt2" else 7)
    learned = {name for name, param in model.named_parameters() if param.requires_grad}
    assert learned == {f"{name}.{part}" for name in inside for part in ("lora_A", "lora_B")}


@FAMILIES
@pytest.mark.parametrize("scaling", ["standard", "unscaled", "rslora"])
def test_merged_equals_unmerged(family, scaling):
    model = trained(tiny(family), LoraOptions(rank=4, alpha=3.0, scaling=scaling))
    plain = logits(tiny(family), some_ids())
    attached = logits(model, some_ids())
    assert not close(attached, plain)
    lora.merge(model)
    assert close(logits(model, some_ids()), attached)
    assert not list(lora.adapters(model))
    assert model.state_dict().keys() == tiny(family).state_dict().keys()


def test_a_layer_is_its_weight_plus_the_scaled_product():
    model = trained(tiny(), LoraOptions(rank=4, alpha=3.0, scaling="unscaled", targets=("c_fc",)))
    name, layer = next(lora.adapters(model))
    wanted = layer.weight + 3.0 * layer.lora_B @ layer.lora_A
    assert name == "transformer.h.0.mlp.c_fc"
    torch.testing.assert_close(layer.merged().weight, wanted, rtol=0, atol=1e-6)
    x = torch.randn(5, 32)
    torch.testing.assert_close(layer(x), x @ wanted.T + layer.bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("c_attn",), ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]),
        (("h.1.mlp.*",), ["transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj"]),
        (("transformer.h.0.attn.c_proj",), ["transformer.h.0.attn.c_proj"]),
    ],
)
def test_targets_are_ends_of_names(patterns, names):
    assert lora.target_layers(tiny(), patterns) == names


def test_a_target_that_names_nothing_is_refused_with_what_there_is():
    with pytest.raises(
        ConfigError, match=r"lora\.targets=q_proj names no linear layer; there are attn.c_attn"
    ):
        lora.attach(tiny(), LoraOptions(rank=4, targets=("c_fc", "q_proj")), seed=0)


def test_the_head_is_no_target():
    with pytest.raises(ConfigError, match=r"lora\.targets=lm_head names no linear layer"):
        lora.attach(tiny(tied=False), LoraOptions(rank=4, targets=("lm_head",)), seed=0)


def test_dropout_acts_in_training_alone():
    model = trained(tiny(), LoraOptions(rank=4, dropout=0.5))
    still = logits(model, some_ids())
    assert torch.equal(logits(model, some_ids()), still)
    model.train()
    assert not torch.equal(logits(model, some_ids()), still)


def test_fresh_adapters_depend_on_the_seed_alone_and_are_peft_s_distribution():
    first, again, other = tiny(), tiny(), tiny()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        lora.attach(model, LoraOptions(rank=4), seed=seed)
    a, b, c = (
        dict(model.named_parameters())["transformer.h.0.attn.c_attn.lora_A"]
        for model in (first, again, other)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.abs().max() <= 32**-0.5  # kaiming_uniform(a=sqrt(5)): U(-1/sqrt(in), 1/sqrt(in))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
@FAMILIES
def test_gradients_are_those_of_peft(family, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    ours = tiny(family)
    checkpoint.save(ours, tmp_path)
    ids = some_ids()
    lora.attach(ours, LoraOptions(rank=4, alpha=8), seed=0)
    names = [name for name, _ in lora.adapters(ours)]
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path).eval(),
        LoraConfig(r=4, lora_alpha=8, target_modules=names, fan_in_fan_out=family == "gpt2"),
    )
    params = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in lora.adapters(ours):
            for part in ("A", "B"):
                mine = getattr(layer, f"lora_{part}")
                if part == "B":
                    mine.normal_(0, 0.3)
                params[f"base_model.model.{name}.lora_{part}.default.weight"].copy_(mine)
    ours.logits(ours(ids)).square().mean().backward()
    theirs(ids).logits.square().mean().backward()
    for name, layer in lora.adapters(ours):
        for part in ("A", "B"):
            mine = getattr(layer, f"lora_{part}").grad
            assert close(mine, params[f"base_model.model.{name}.lora_{part}.default.weight"].grad)
