import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptworks.errors import CheckpointError
from gptworks.model import adapter, checkpoint, lora
from gptworks.recipe import LoraOptions
from tests.model.parity import logits, some_ids
from tests.model.test_lora import FAMILIES, close, tiny, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing:FutureWarning"
)  # peft, of transformers


@pytest.fixture
def base(tmp_path, request):
    checkpoint.save(tiny(getattr(request, "param", "gpt2")), tmp_path / "base")
    return tmp_path / "base"


def saved(base, family="gpt2", **options):
    """A trained adapter's folder, and the logits it gives."""
    wanted = LoraOptions(**{"rank": 4, "alpha": 6.0} | options)
    model = trained(checkpoint.load(base), wanted)
    folder = base.parent / "adapter"
    adapter.save(model, folder, wanted, checkpoint.origin(str(base)))
    return folder, logits(model, some_ids())


def with_peft(base, folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("gpt2", {}),
        ("gpt2", {"scaling": "unscaled", "alpha": 2.0, "rank": 3}),
        ("gpt2", {"scaling": "rslora", "targets": ("c_attn", "mlp.c_proj")}),
        ("modern", {}),
        ("modern", {"scaling": "rslora", "targets": ("q_proj", "down_proj")}),
    ],
    indirect=["base"],
)
def test_peft_opens_our_adapter_and_gives_our_logits(base, options):
    folder, ours = saved(base, **options)
    theirs = with_peft(base, folder)
    with torch.no_grad():
        assert close(theirs(some_ids()).logits, ours)
        assert close(theirs.merge_and_unload()(some_ids()).logits, ours)


@pytest.mark.parametrize("base", ["gpt2", "modern"], indirect=True)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_an_adapter_trained_by_peft_is_loaded_and_merged(base, use_rslora):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(base)
    gpt2 = theirs.config.model_type == "gpt2"
    targets = ["c_attn", "c_fc"] if gpt2 else ["q_proj", "up_proj"]
    options = LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, fan_in_fan_out=gpt2, use_rslora=use_rslora
    )
    torch.manual_seed(0)
    theirs = get_peft_model(theirs, options)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        theirs(some_ids(), labels=some_ids()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = base.parent / "theirs"
    theirs.save_pretrained(folder)
    with torch.no_grad():
        wanted = theirs.eval()(some_ids()).logits
    assert not close(wanted, logits(checkpoint.load(base), some_ids()))
    assert close(logits(checkpoint.load(folder), some_ids()), wanted)


def test_what_is_saved_is_what_is_loaded(base):
    folder, ours = saved(base)
    model = checkpoint.load(base)
    adapter.apply(adapter.read(folder), model, "base")
    assert torch.equal(logits(model, some_ids()), ours)
    adapter.apply(adapter.read(folder), model, "base")  # into the adapters that are there
    assert torch.equal(logits(model, some_ids()), ours)
    assert len(list(lora.adapters(model))) == 8


def test_an_adapter_is_small_and_holds_no_weight_of_the_base(base):
    folder, _ = saved(base)
    tensors = load_file(folder / adapter.WEIGHTS)
    assert len(tensors) == 16
    assert all(re.search(r"\.lora_[AB]\.weight$", name) for name in tensors)


def test_a_model_without_adapters_cannot_be_saved_as_one(base):
    with pytest.raises(ValueError, match="no adapters"):
        adapter.save(checkpoint.load(base), base.parent / "a", LoraOptions(), checkpoint.origin(str(base)))


def edit(folder, **changes):
    file = folder / adapter.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(folder, name):
    tensors = load_file(folder / adapter.WEIGHTS)
    save_file({name(key): tensor for key, tensor in tensors.items() if name(key)}, folder / adapter.WEIGHTS)


def widen(folder):
    tensors = {
        key: torch.cat([t, t], dim=0 if "lora_B" in key else 1)
        for key, t in load_file(folder / adapter.WEIGHTS).items()
    }
    save_file(tensors, folder / adapter.WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: rename(f, lambda key: ""), "is an empty adapter"),
        (
            lambda f: rename(f, lambda key: key.replace(".h.", ".layers.")),
            r"adapter for .*base and does not fit .*no linear layer",
        ),
        (lambda f: rename(f, lambda key: "" if "lora_B" in key else key), "only one of lora_A and lora_B"),
        (widen, r"does not fit .*base: .*\(96, 32\).*\(192, 64\)"),
        (lambda f: edit(f, peft_type="IA3"), "peft_type=IA3"),
        (lambda f: edit(f, use_dora=True), "use_dora=True, which is not supported"),
        (lambda f: edit(f, bias="all"), "bias=all; only none"),
        (
            lambda f: edit(f, base_model_name_or_path="./nowhere"),
            r"is an adapter for ./nowhere: there is no folder ./nowhere",
        ),
        (lambda f: edit(f, base_model_name_or_path=None), "does not say which model"),
        (lambda f: (f / adapter.WEIGHTS).write_bytes(b"{"), "cannot be read"),
        (lambda f: (f / adapter.CONFIG).write_text("["), "cannot be read"),
    ],
)
def test_adapters_that_cannot_be_used_are_refused(base, spoil, message):
    folder, _ = saved(base)
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


def test_a_base_whose_weights_changed_is_refused(base):
    folder, _ = saved(base)
    model = checkpoint.load(base)
    with torch.no_grad():
        model.head_weight[0, 0] += 1
    checkpoint.save(model, base)
    with pytest.raises(CheckpointError, match="weights have changed"):
        checkpoint.load(folder)


def test_a_base_that_moved_along_is_found_and_no_other_is_taken(base, tmp_path):
    folder, ours = saved(base)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    moved = folder.rename(tmp_path / "new" / "deep" / "adapter")
    base.rename(tmp_path / "new" / "base")
    assert close(logits(checkpoint.load(moved), some_ids()), ours)
    model = checkpoint.load(tmp_path / "new" / "base")
    with torch.no_grad():
        model.head_weight[0, 0] += 1
    checkpoint.save(model, tmp_path / "new" / "base")
    with pytest.raises(CheckpointError, match=r"into .*adapter_config\.json"):
        checkpoint.load(moved)


def test_an_adapter_on_an_adapter_is_refused(base):
    folder, _ = saved(base)
    with pytest.raises(CheckpointError, match="is itself an adapter"):
        checkpoint.origin(str(folder))


@FAMILIES
def test_transformers_opens_the_folder_as_a_model(family, tmp_path):
    from transformers import AutoModelForCausalLM

    checkpoint.save(tiny(family), tmp_path / "base")
    folder, ours = saved(tmp_path / "base")
    with torch.no_grad():
        assert close(AutoModelForCausalLM.from_pretrained(folder).eval()(some_ids()).logits, ours)
