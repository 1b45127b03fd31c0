import pytest
import torch

from gptworks.generation import loading
from gptworks.model import checkpoint, native
from gptworks.model.int8 import Int8Linear
from tests.model.test_lora import tiny


@pytest.fixture
def folder(byte_tokenizer, tmp_path):
    checkpoint.save(tiny(), tmp_path / "model", byte_tokenizer)
    return tmp_path / "model"


def test_weights_are_kept_as_asked_for(folder, monkeypatch):
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cpu"))
    assert loading.open_model(folder, "fp32").head_weight.dtype == torch.float32
    assert loading.open_model(folder, "bf16").head_weight.dtype == torch.bfloat16
    assert isinstance(loading.open_model(folder, "int8").int8_head, Int8Linear)


@pytest.mark.parametrize(("tiles", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_a_cpu_bfloat16_is_chosen_where_it_is_faster(folder, monkeypatch, tiles, dtype):
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(native, "has_amx", lambda: tiles)
    assert loading.open_model(folder).head_weight.dtype == dtype
