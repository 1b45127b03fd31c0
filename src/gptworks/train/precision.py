"""Mixed precision: weights, gradients and moments stay in float32; matrix products use the hardware's fastest dtype."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gptworks.devices import DTYPES, fast_dtype
from gptworks.errors import ConfigError
from gptworks.model import native


@dataclass(frozen=True)
class Precision:
    """The dtype of matrix products on a device."""

    name: Literal["bf16", "fp16", "fp32"]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    def __str__(self) -> str:
        native_kernels = self.name == "bf16" and self.device.type == "cpu" and native.kernels() is not None
        return self.name + (" with kernels compiled for this CPU" if native_kernels else "")

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the forward pass uses this dtype."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def choose(name: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> Precision:
    """The precision that train.precision names; auto picks the device's fastest.

    Raises:
        ConfigError: fp16 on a CPU, where it is slow and overflows.
    """
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision=fp16 needs a GPU; on a CPU use auto, bf16 or fp32")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return Precision(fast_dtype(device) if name == "auto" else name, device)


class LossScale:
    """Dynamic loss scale that keeps small fp16 gradients from underflowing.

    Halved on overflow, doubled after 2,000 good steps.
    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(2.0**16, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """Adjust the scale after a step, without synchronizing with the device."""
        bad = found_inf.bool()
        self.good_steps = torch.where(bad, 0, self.good_steps + 1).int()
        grow = self.good_steps >= 2000
        self.scale = torch.where(bad, self.scale * 0.5, torch.where(grow, self.scale * 2, self.scale))
        self.good_steps = torch.where(grow, 0, self.good_steps).int()
