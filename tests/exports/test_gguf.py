"""GGUF files read back by the gguf package, and by transformers, which knows nothing of us."""

from dataclasses import replace

import gguf as reader
import numpy as np
import pytest
import torch

from gptworks.errors import CheckpointError
from gptworks.exports import gguf, gguf_tokenizer
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.model.hf_weights import CONV1D, to_disk
from gptworks.text import templates
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN
from gptworks.text.tokenizer import Tokenizer
from gptworks.text.vocabulary import Vocabulary
from tests.exports.conftest import SHAPES


def written(model, tokenizer, file, precision="fp32", **more):
    remarks = gguf.write(model, tokenizer, file, precision, name="a model", **more)
    return reader.GGUFReader(file), remarks


def fields(file):
    return {name: field.contents() for name, field in file.fields.items()}


@pytest.mark.parametrize(
    ("precision", "relative"), [("fp32", 0.0), ("fp16", 2**-11), ("bf16", 2**-8), ("q8_0", None)]
)
def test_every_tensor_comes_back_to_the_precisions_rounding(known, tmp_path, precision, relative):
    _, model, tokenizer = known
    family = model.config.family
    file, remarks = written(model, tokenizer, tmp_path / "x.gguf", precision)
    assert remarks == []
    names = reader.get_tensor_name_map(gguf.ARCHITECTURES[family], 2)
    found = {tensor.name: tensor for tensor in file.tensors}
    wanted = to_disk(model)
    assert len(found) == len(wanted)
    for name, tensor in wanted.items():
        tensor = (tensor.T if family == "gpt2" and CONV1D.search(name) else tensor).numpy()
        there = found[names.get_name(name, (".weight", ".bias"))]
        back = reader.dequantize(there.data, there.tensor_type).reshape(tensor.shape)
        if tensor.ndim == 1 or name.endswith("wpe.weight"):
            assert there.tensor_type == reader.GGMLQuantizationType.F32
            assert np.array_equal(back, tensor)
        elif precision == "q8_0":
            assert there.tensor_type == reader.GGMLQuantizationType.Q8_0
            blocks = np.abs(tensor.reshape(-1, 32)).max(1, keepdims=True)
            wrong = np.abs((back - tensor).reshape(-1, 32))
            assert (wrong <= blocks * (0.5 / 127 + 2**-10) + 1e-7).all()
        else:
            assert np.allclose(back, tensor, rtol=relative, atol=2**-25)


def test_metadata_says_what_the_model_is(known, tmp_path):
    _, model, tokenizer = known
    config, said = model.config, fields(written(model, tokenizer, tmp_path / "x.gguf", "q8_0")[0])
    kind = "gpt2" if config.family == "gpt2" else "qwen3"
    assert said["general.architecture"] == kind
    assert said["general.name"] == "a model"
    assert said["general.file_type"] == reader.LlamaFileType.MOSTLY_Q8_0
    for key, value in {
        "context_length": config.context,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_kv_head,
    }.items():
        assert said[f"{kind}.{key}"] == value
    if kind == "qwen3":
        assert said["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(config.norm_eps)
        assert said["qwen3.rope.freq_base"] == config.rope_theta
        assert said["qwen3.attention.key_length"] == config.head_dim
    else:
        assert said["gpt2.attention.layer_norm_epsilon"] == pytest.approx(config.norm_eps)
    assert said["tokenizer.ggml.eos_token_id"] == tokenizer.eos_id
    assert said["tokenizer.ggml.add_bos_token"] == (tokenizer.bos_id is not None)
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    assert said["tokenizer.ggml.bos_token_id"] == begin
    assert len(said["tokenizer.ggml.tokens"]) == tokenizer.vocab_size
    kinds = said["tokenizer.ggml.token_type"]
    assert {id for id, kind in enumerate(kinds) if kind == 3} == set(tokenizer.special_tokens.values())


def test_transformers_reads_the_same_logits_and_ids(known, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, model, tokenizer = known
    gguf.write(model, tokenizer, tmp_path / "x.gguf", "fp32", name="x")
    config = AutoConfig.from_pretrained(folder)  # of GPT-2's context they read nothing in the file
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", config=config).eval()
    ids = torch.tensor([tokenizer.encode("the kettle sang, 日本")])
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model.logits(model(ids)), rtol=0, atol=1e-5)


def test_neighbours_of_gpt2_become_gpt2(own_bpe, tmp_path):
    """Sinusoidal positions are a table, biases that are not there are zeros, the head is its own."""
    options = replace(SHAPES["gpt2"], positions="sinusoidal", bias=("qkv",), tied=False, norm_eps=1e-3)
    model = build(resolve_config(options, 700), seed=0)
    file, _ = written(model, own_bpe["gpt2"], tmp_path / "x.gguf")
    found = {tensor.name: tensor.data for tensor in file.tensors}
    assert np.array_equal(found["position_embd.weight"], model.transformer.wpe.weight.detach().numpy())
    assert not found["blk.1.ffn_up.bias"].any()
    assert not found["output_norm.bias"].any()
    assert "output.weight" in found
    assert fields(file)["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-3)


def test_ids_beyond_the_tokenizers_are_left_out(own_bpe, tmp_path):
    model = build(resolve_config(SHAPES["modern"], 900), seed=0)
    file, _ = written(model, own_bpe["gpt4"], tmp_path / "x.gguf")
    embedding = next(tensor for tensor in file.tensors if tensor.name == "token_embd.weight")
    assert embedding.data.shape[0] == own_bpe["gpt4"].vocab_size == len(fields(file)["tokenizer.ggml.tokens"])


def test_rows_that_are_not_whole_blocks_stay_fp16(own_bpe, tmp_path):
    options = replace(SHAPES["gpt2"], n_embd=48, n_inner=192)
    model = build(resolve_config(options, 700), seed=0)
    file, remarks = written(model, own_bpe["gpt2"], tmp_path / "x.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in file.tensors}
    assert (kinds["blk.0.attn_qkv.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")
    assert len(remarks) == 1
    assert remarks[0].startswith("7 matrices are in fp16")


def test_the_exact_gelu_is_refused_unless_asked_for(own_bpe, tmp_path):
    model = build(resolve_config(replace(SHAPES["gpt2"], activation="gelu"), 700), seed=0)
    with pytest.raises(CheckpointError, match="--approximate-gelu"):
        written(model, own_bpe["gpt2"], tmp_path / "x.gguf")
    _, remarks = written(model, own_bpe["gpt2"], tmp_path / "x.gguf", approximate_gelu=True)
    assert len(remarks) == 1
    assert "GELU" in remarks[0]
    x = torch.linspace(-10, 10, 100_001)
    assert (torch.nn.functional.gelu(x) - torch.nn.functional.gelu(x, approximate="tanh")).abs().max() < 5e-4


def test_numbers_too_large_for_fp16_are_refused(own_bpe, tmp_path):
    model = build(resolve_config(SHAPES["modern"], 700), seed=0)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"up_proj.weight .* 65,504.*--precision bf16"):
        written(model, own_bpe["gpt4"], tmp_path / "x.gguf", "fp16")
    written(model, own_bpe["gpt4"], tmp_path / "y.gguf", "bf16")


def test_tokenizers_that_llama_cpp_has_no_name_for_are_refused(own_bpe, tmp_path):
    vocabulary = own_bpe["gpt2"].vocabulary
    odd = Tokenizer.from_vocabulary(replace(vocabulary, patterns=(r"\S+|\s+",)))
    with pytest.raises(CheckpointError, match=r"split pattern .*--to safetensors"):
        written(build(resolve_config(SHAPES["gpt2"], 700), seed=0), odd, tmp_path / "x.gguf")
    endless = Tokenizer(replace(vocabulary, specials={}), None, None)
    with pytest.raises(CheckpointError, match="end-of-text token"):
        written(build(resolve_config(SHAPES["gpt2"], 700), seed=0), endless, tmp_path / "x.gguf")


def test_whole_pieces_have_a_name_only_where_llama_cpp_knows_them(byte_tokenizer):
    """A token that its own merges do not lead to is found only by those who look it up whole."""
    ids = dict(byte_tokenizer.vocabulary.ids) | {b"ab": 257, b"bc": 258, b"abc": 259}
    merges = ((b"a", b"b"), (b"b", b"c"), (b"a", b"bc"))  # "abc" is merged to "ab", "c"
    for pattern, named in ((GPT4_PATTERN, "llama-bpe"), (GPT2_PATTERN, None)):
        found = Tokenizer.from_vocabulary(
            Vocabulary(ids, merges, (pattern,), {"<|endoftext|>": 256}, ignore_merges=True)
        )
        if named:
            assert gguf_tokenizer.pattern_name(found) == named
        else:
            with pytest.raises(CheckpointError):
                gguf_tokenizer.pattern_name(found)


@pytest.mark.parametrize("name", templates.names())
def test_templates_lose_generation_marks_and_nothing_else(byte_tokenizer, name):
    source = templates.find(name)
    plain = gguf_tokenizer.without_generation(source)
    assert "generation -" not in plain.replace("add_generation_prompt -", "")
    talk = [
        templates.Message("user", "a", "b"),
        templates.Message("assistant", "c"),
        templates.Message("user", "d"),
    ]
    before, after = (templates.Chat(byte_tokenizer.with_template(text)) for text in (source, plain))
    for prompt in (True, False):
        assert before.render(talk, prompt=prompt) == after.render(talk, prompt=prompt)
