"""Quantized weights, against bitsandbytes' own layers."""

import sys

import pytest
import torch
from torch import nn

from gptworks.errors import ConfigError
from gptworks.model import lora, quantized
from gptworks.recipe import LoraOptions
from tests.model.parity import logits, some_ids
from tests.model.test_lora import FAMILIES, close, tiny

CPU = torch.device("cpu")


def theirs(linear, dtype):
    bnb = pytest.importorskip("bitsandbytes")
    out, width = linear.weight.shape
    if dtype == "int8":
        layer = bnb.nn.Linear8bitLt(width, out, bias=False, has_fp16_weights=False)
        layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(width, out, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False
        )
    return layer.to("cpu")


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(128, 192, bias=False)


@pytest.mark.parametrize(("dtype", "share"), [("bf16", 0.5), ("int8", 0.26), ("nf4", 0.15)])
def test_products_and_gradients_are_those_of_the_dequantized_matrix(linear, dtype, share):
    if dtype != "bf16":
        pytest.importorskip("bitsandbytes")
    kept = quantized.QuantizedLinear(linear.weight, dtype)
    matrix = kept.dequantize(torch.float32)
    error = (matrix - linear.weight).norm() / linear.weight.norm()
    assert error < {"bf16": 0.003, "int8": 0.01, "nf4": 0.12}[dtype]
    x = torch.randn(5, 128, requires_grad=True)
    kept(x).square().sum().backward()
    mine, x.grad = x.grad, None
    (x @ matrix.T).square().sum().backward()
    torch.testing.assert_close(mine, x.grad, rtol=1e-5, atol=1e-5)
    assert sum(buffer.nbytes for buffer in kept.buffers()) <= share * linear.weight.nbytes
    planned = quantized.QuantizedLinear(linear.weight.to("meta"), dtype)
    assert [b.nbytes for b in planned.buffers()] == [b.nbytes for b in kept.buffers()]


def test_nf4_is_that_of_bitsandbytes(linear):
    x = torch.randn(5, 128)
    layer = theirs(linear, "nf4")
    torch.testing.assert_close(
        quantized.QuantizedLinear(linear.weight, "nf4")(x), layer(x), rtol=1e-5, atol=1e-5
    )


def test_int8_is_that_of_bitsandbytes(linear):
    """Its product rounds the input to 8 bits as well; ours does not."""
    x = torch.randn(5, 128)
    layer = theirs(linear, "int8")
    ours = quantized.QuantizedLinear(linear.weight, "int8")
    assert torch.equal(ours.packed, layer.weight.data)
    assert ((ours(x) - layer(x)).norm() / layer(x).norm()) < 0.02


def test_a_bf16_matrix_changes_no_bf16_product(linear):
    x = torch.randn(5, 128)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantized.QuantizedLinear(linear.weight, "bf16")(x), linear(x))


@FAMILIES
@pytest.mark.parametrize("dtype", ["bf16", "int8", "nf4"])
def test_adapters_are_trained_beside_a_quantized_base(family, dtype):
    if dtype != "bf16":
        pytest.importorskip("bitsandbytes")
    model, dequantized = tiny(family), tiny(family)
    lora.attach(model, LoraOptions(rank=4, base_dtype=dtype), seed=0)
    with torch.no_grad():
        for name, layer in lora.adapters(model):
            dequantized.get_submodule(name).weight.copy_(layer.quantized.dequantize(torch.float32))
    assert close(logits(model, some_ids()), logits(dequantized, some_ids()))
    assert not close(logits(model, some_ids()), logits(tiny(family), some_ids()))
    model.logits(model(some_ids())).square().mean().backward()
    learned = {name for name, param in model.named_parameters() if param.grad is not None}
    assert learned == {f"{name}.{part}" for name, _ in lora.adapters(model) for part in ("lora_A", "lora_B")}
    assert not [
        name for name, _ in model.named_parameters() if name.endswith(("c_fc.weight", "q_proj.weight"))
    ]


def test_a_quantized_base_needs_adapters_and_bitsandbytes(monkeypatch):
    with pytest.raises(ConfigError, match=r"lora\.base_dtype=nf4 .* --lora\.rank"):
        lora.check(LoraOptions(base_dtype="nf4"), CPU)
    lora.check(LoraOptions(rank=4, base_dtype="bf16"), torch.device("mps"))
    with pytest.raises(ConfigError, match=r"lora\.base_dtype=int8 .* on mps"):
        lora.check(LoraOptions(rank=4, base_dtype="int8"), torch.device("mps"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"lora\.base_dtype=int8 .*pip install 'gptworks\[qlora\]'"):
        lora.check(LoraOptions(rank=4, base_dtype="int8"), CPU)


def test_bf16_changes_nothing_in_a_base_with_bf16_values():
    plain, kept = tiny(), tiny()
    with torch.no_grad():
        for model in (plain, kept):
            for param in model.parameters():
                param.copy_(param.bfloat16().float())
    lora.attach(plain, LoraOptions(rank=4), seed=0)
    lora.attach(kept, LoraOptions(rank=4, base_dtype="bf16"), seed=0)
    assert close(logits(kept, some_ids()), logits(plain, some_ids()))
