import os

import pytest
import torch

from gptworks.devices import choose_device, set_onednn_cache
from gptworks.errors import ConfigError


def test_a_missing_device_is_refused_with_the_ones_that_exist(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device cuda .* cpu"):
        choose_device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_the_environment_takes_precedence_over_our_onednn_cache_size(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    set_onednn_cache(16)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "16"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    set_onednn_cache(16)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
