import json
import pickle
import re
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptworks.errors import CheckpointError
from gptworks.model import checkpoint
from gptworks.model.build import Model, build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from tests.conftest import CONTEXT, END, VOCABULARY
from tests.model.parity import logits, some_ids

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": CONTEXT, "init_std": 0.2}


def tiny(**options) -> Model:
    return build(resolve_config(ModelOptions(**SHAPE | options), VOCABULARY), seed=0).eval()


@pytest.fixture
def folder(tiny_gpt2, tmp_path: Path) -> Path:
    tiny_gpt2.save_pretrained(tmp_path)
    return tmp_path


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "options", [{}, {"tied": False, "bias": ("mlp",)}, {"family": "modern", "n_kv_head": 2}]
)
def test_what_is_saved_is_what_is_loaded(options: dict, tmp_path: Path):
    model = tiny(**options)
    checkpoint.save(model, tmp_path / "a")
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded.config == model.config
    assert not loaded.training
    params = dict(loaded.named_parameters())
    assert all(torch.equal(param, params[name]) for name, param in model.named_parameters())
    checkpoint.save(loaded, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_on_disk_there_is_no_padding_and_everyone_may_read(tmp_path: Path):
    checkpoint.save(tiny(), tmp_path)
    assert load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].shape == (VOCABULARY, 32)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644


def test_the_tokenizer_goes_along_and_its_marks_are_named(byte_tokenizer, tmp_path: Path):
    from transformers import AutoTokenizer, GenerationConfig

    checkpoint.save(tiny(), tmp_path, byte_tokenizer)
    assert checkpoint.load_tokenizer(tmp_path) == byte_tokenizer
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("Hello, wörld")["input_ids"] == byte_tokenizer.encode("Hello, wörld")
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (END, END, END)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_a_file_that_was_copied_is_not_kept_in_memory(tmp_path: Path):
    checkpoint.save(tiny(), tmp_path)
    model = checkpoint.load(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert next(model.parameters()).isfinite().all()


def test_weights_go_back_into_a_model_where_they_are(folder: Path):
    model = checkpoint.load(folder)
    wanted = {name: param.clone() for name, param in model.named_parameters()}
    places = {name: param.data_ptr() for name, param in model.named_parameters()}
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(0.5)
    checkpoint.load_into(model, folder)
    for name, param in model.named_parameters():
        assert torch.equal(param, wanted[name])
        assert param.data_ptr() == places[name]
    with pytest.raises(CheckpointError, match=r"holds .* tensors that its network"):
        checkpoint.load_into(tiny(), folder)


def test_shards_are_read(tiny_gpt2, folder: Path, tmp_path: Path):
    whole = checkpoint.load(folder)
    tiny_gpt2.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    sharded = checkpoint.load(tmp_path / "shards")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True))


def test_old_files_are_read(tiny_gpt2, folder: Path):
    """As the Hub's gpt2 is: no prefix, causal masks among the weights, and config.json without most keys."""
    before = logits(checkpoint.load(folder), some_ids())
    tensors = {
        name.removeprefix("transformer."): t for name, t in load_file(folder / "model.safetensors").items()
    }
    for layer in range(3):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(logits(checkpoint.load(folder), some_ids()), before)


def test_bin_files_are_read_as_weights_only(tiny_gpt2, folder: Path):
    before = logits(checkpoint.load(folder), some_ids())
    (folder / "model.safetensors").unlink()
    torch.save(tiny_gpt2.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(logits(checkpoint.load(folder), some_ids()), before)


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_nothing_is_unpickled(save, folder: Path, tmp_path: Path):
    (folder / "model.safetensors").unlink()
    save({"wte.weight": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        checkpoint.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_half_precision_files_become_float32_or_what_is_asked_for(tiny_gpt2, folder: Path):
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    assert {p.dtype for p in checkpoint.load(folder).parameters()} == {torch.float32}
    model = checkpoint.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    checkpoint.save(model, folder / "half")
    assert json.loads((folder / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_biases_and_positions_that_others_have_trained_since_count(tmp_path: Path):
    """Our note says there are none; after fine-tuning by transformers there are."""
    from transformers import GPT2LMHeadModel

    checkpoint.save(tiny(bias=("none",), positions="sinusoidal"), tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs.transformer.h[1].mlp.c_fc.bias.add_(0.3)
        theirs.transformer.wpe.weight.add_(0.1)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["gptworks"]["bias"] == []
    ours = checkpoint.load(tmp_path)
    assert (ours.config.bias, ours.config.positions) == (("qkv", "proj", "mlp", "norm"), "learned")
    torch.testing.assert_close(logits(ours, some_ids()), theirs(some_ids()).logits, rtol=0, atol=1e-4)


def test_dropout_and_context_can_be_overridden(folder: Path):
    model = checkpoint.load(folder, overrides={"dropout": 0.3, "dropout_at": ("attention",), "context": 20})
    assert (
        model.config.dropout_rate("attention"),
        model.config.dropout_rate("mlp_out"),
        model.config.context,
    ) == (0.3, 0.0, 20)
    ids = some_ids(length=20)
    assert torch.equal(logits(model, ids), logits(checkpoint.load(folder), ids))


def test_only_learned_positions_limit_the_context(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=rf"{CONTEXT} positions: model\.context=64"):
        checkpoint.load(folder, overrides={"context": 64})
    for options in ({"positions": "sinusoidal"}, {"family": "modern"}):
        model = tiny(**options)
        checkpoint.save(model, tmp_path / "m")
        longer = checkpoint.load(tmp_path / "m", overrides={"context": 64})
        assert torch.equal(logits(longer, some_ids()), logits(model, some_ids()))
        assert logits(longer, some_ids(length=64)).shape[1] == 64


def missing_folder(folder: Path) -> Path:
    return folder / "nowhere"


def no_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def truncated(folder: Path) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return folder


def not_safetensors(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"hello" * 100)
    return folder


def config_no_json(folder: Path) -> Path:
    (folder / "config.json").write_text("{")
    return folder


def config_a_list(folder: Path) -> Path:
    (folder / "config.json").write_text("[]")
    return folder


def other_width(folder: Path) -> Path:
    edit(folder / "config.json", n_embd=32)
    return folder


def other_depth(folder: Path) -> Path:
    edit(folder / "config.json", n_layer=4)
    return folder


def less_deep(folder: Path) -> Path:
    edit(folder / "config.json", n_layer=2)
    return folder


def other_architecture(folder: Path) -> Path:
    edit(folder / "config.json", model_type="llama")
    return folder


def broken_index(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    return folder


def missing_shard(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_folder, "nowhere .*no config.json"),
        (
            no_weights,
            "holds no weights; looked for model.safetensors, model.safetensors.index.json, pytorch_model",
        ),
        (truncated, r"model\.safetensors cannot be read"),
        (not_safetensors, r"model\.safetensors cannot be read"),
        (config_no_json, r"config\.json cannot be read"),
        (config_a_list, r"config\.json cannot be read"),
        (other_width, r"transformer\.h\.0\.\S+ has shape .*config\.json|wte\.weight has shape"),
        (other_depth, r"lacks 12 tensors .*transformer\.h\.3\."),
        (less_deep, r"holds 12 tensors .*transformer\.h\.2\."),
        (other_architecture, "model_type=llama; gptworks reads gpt2 and qwen3"),
        (broken_index, r"index\.json cannot be read"),
        (missing_shard, r"model-00001-of-00002\.safetensors is missing"),
    ],
)
def test_bad_folders_are_refused_and_named(damage, message: str, folder: Path):
    bad = damage(folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(bad)
    assert re.search(message, str(caught.value)), caught.value
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_tokenizer_says_so(folder: Path):
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        checkpoint.load_tokenizer(folder)
