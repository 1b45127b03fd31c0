import pytest
import torch

from gptworks.generation.engine import GenerateSettings, generate
from gptworks.model import int8
from gptworks.model.int8 import Int8Linear
from tests.model.parity import logits, some_ids
from tests.model.test_lora import FAMILIES, tiny


def test_a_matrix_is_kept_to_half_a_step_of_each_rows_scale():
    weight = (
        torch.randn(40, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 40)[:, None]
    )
    layer = Int8Linear(weight, None)
    step = weight.abs().amax(1) / 127
    assert (
        (layer.dequantize() - weight).abs() <= (0.5 + 127 / 256) * step[:, None]
    ).all()  # scales are bfloat16
    assert layer.packed.dtype == torch.int8
    assert Int8Linear(torch.zeros(3, 4), None)(torch.ones(1, 4)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_that_of_the_dequantized_matrix(rows):
    chance = torch.Generator().manual_seed(1)
    weight, bias, x = (torch.randn(*shape, generator=chance) for shape in ((48, 32), (48,), (2, rows, 32)))
    layer = Int8Linear(weight, bias)
    wanted = x.bfloat16().float() @ layer.dequantize().T + bias
    torch.testing.assert_close(layer(x), wanted, rtol=2**-7, atol=0.02)  # rounded to bfloat16


@FAMILIES
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_quantized_and_the_network_nearly_the_same(family, tied):
    model = tiny(family, tied=tied, init_std=0.05)
    wide = logits(model, some_ids())
    before = sum(param.numel() for param in model.parameters() if param.dim() == 2)
    int8.quantize(model)
    found = logits(model, some_ids())
    kinds = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert kinds == ([] if tied else [model.lm_head])
    packed = sum(m.packed.numel() for m in model.modules() if isinstance(m, Int8Linear))
    assert packed >= before / 2
    kl = (wide.softmax(-1) * (wide.log_softmax(-1) - found.log_softmax(-1))).sum(-1)
    assert 0 < kl.mean() < 1e-4
    assert not torch.equal(found, wide)


def test_it_generates(byte_tokenizer):
    (sample,) = generate(int8.quantize(tiny()), byte_tokenizer, "Hello", GenerateSettings(max_tokens=5))
    assert len(sample.ids) == 5
