"""Weights in few bits, against bitsandbytes' own layers."""

import sys

import pytest
import torch
from torch import nn

from gptworks.errors import ConfigError
from gptworks.model import lora, narrow
from gptworks.recipe import LoraOptions
from tests.model.parity import logits, some_ids
from tests.model.test_lora import FAMILIES, close, tiny

CPU = torch.device("cpu")


def theirs(linear, bits):
    bnb = pytest.importorskip("bitsandbytes")
    out, width = linear.weight.shape
    if bits == 8:
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


@pytest.mark.parametrize(("bits", "share"), [(16, 0.5), (8, 0.26), (4, 0.15)])
def test_products_and_gradients_are_of_the_matrix_that_is_kept_in_fewer_bytes(linear, bits, share):
    if bits < 16:
        pytest.importorskip("bitsandbytes")
    kept = narrow.Narrow(linear.weight, bits)
    matrix = kept.matrix(torch.float32)
    error = (matrix - linear.weight).norm() / linear.weight.norm()
    assert error < {16: 0.003, 8: 0.01, 4: 0.12}[bits]
    x = torch.randn(5, 128, requires_grad=True)
    kept(x).square().sum().backward()
    mine, x.grad = x.grad, None
    (x @ matrix.T).square().sum().backward()
    torch.testing.assert_close(mine, x.grad, rtol=1e-5, atol=1e-5)
    assert sum(buffer.nbytes for buffer in kept.buffers()) <= share * linear.weight.nbytes
    planned = narrow.Narrow(linear.weight.to("meta"), bits)
    assert [b.nbytes for b in planned.buffers()] == [b.nbytes for b in kept.buffers()]


def test_four_bits_are_those_of_bitsandbytes(linear):
    x = torch.randn(5, 128)
    layer = theirs(linear, 4)
    torch.testing.assert_close(narrow.Narrow(linear.weight, 4)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_eight_bits_are_those_of_bitsandbytes(linear):
    """Its product rounds the input to 8 bits as well; ours does not."""
    x = torch.randn(5, 128)
    layer = theirs(linear, 8)
    ours = narrow.Narrow(linear.weight, 8)
    assert torch.equal(ours.packed, layer.weight.data)
    assert ((ours(x) - layer(x)).norm() / layer(x).norm()) < 0.02


def test_bfloat16_is_what_bfloat16_products_read_anyway(linear):
    x = torch.randn(5, 128)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(narrow.Narrow(linear.weight, 16)(x), linear(x))


@FAMILIES
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_adapters_are_trained_beside_a_base_in_few_bits(family, bits):
    if bits < 16:
        pytest.importorskip("bitsandbytes")
    model, widened = tiny(family), tiny(family)
    lora.attach(model, LoraOptions(rank=4, base_bits=bits), seed=0)
    with torch.no_grad():
        for name, layer in lora.adapters(model):
            widened.get_submodule(name).weight.copy_(layer.narrow.matrix(torch.float32))
    assert close(logits(model, some_ids()), logits(widened, some_ids()))
    assert not close(logits(model, some_ids()), logits(tiny(family), some_ids()))
    model.logits(model(some_ids())).square().mean().backward()
    learned = {name for name, param in model.named_parameters() if param.grad is not None}
    assert learned == {f"{name}.{part}" for name, _ in lora.adapters(model) for part in ("lora_A", "lora_B")}
    assert not [
        name for name, _ in model.named_parameters() if name.endswith(("c_fc.weight", "q_proj.weight"))
    ]


def test_few_bits_go_with_adapters_and_their_library(monkeypatch):
    with pytest.raises(ConfigError, match=r"lora\.base_bits=4 is for a frozen base: give --lora\.rank"):
        lora.check(LoraOptions(base_bits=4), CPU)
    lora.check(LoraOptions(rank=4, base_bits=16), torch.device("mps"))
    with pytest.raises(ConfigError, match="needs a CUDA GPU or a CPU; on mps take 16"):
        lora.check(LoraOptions(rank=4, base_bits=8), torch.device("mps"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes.*pip install 'gptworks\[qlora\]'"):
        lora.check(LoraOptions(rank=4, base_bits=8), CPU)


def test_sixteen_bits_of_a_base_that_has_no_more_change_nothing():
    plain, kept = tiny(), tiny()
    with torch.no_grad():
        for model in (plain, kept):
            for param in model.parameters():
                param.copy_(param.bfloat16().float())
    lora.attach(plain, LoraOptions(rank=4), seed=0)
    lora.attach(kept, LoraOptions(rank=4, base_bits=16), seed=0)
    assert close(logits(kept, some_ids()), logits(plain, some_ids()))
