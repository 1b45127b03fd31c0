"""Number formats: weights, gradients and moments in float32; products in the narrowest type the hardware is fast in."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gptworks.errors import ConfigError
from gptworks.model import native
from gptworks.world import fast_dtype

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """What products are computed in, on which device."""

    name: Literal["bf16", "fp16", "fp32"]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    def __str__(self) -> str:
        compiled = self.name == "bf16" and self.device.type == "cpu" and native.kernels() is not None
        return self.name + (" with loops compiled for this CPU" if compiled else "")

    def autocast(self) -> AbstractContextManager[object]:
        """Run the forward pass in this type."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def choose(wanted: Literal["auto", "bf16", "fp16", "fp32"], device: torch.device) -> Precision:
    """`auto` looks at the hardware.

    Raises:
        ConfigError: fp16 on a CPU, where it is neither fast nor safe.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision=fp16 needs a GPU; on this CPU use auto, bf16 or fp32")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return Precision(fast_dtype(device) if wanted == "auto" else wanted, device)


class LossScale:
    """Multiplies an fp16 loss so that small gradients survive; halved on overflow, doubled after 2,000 good steps.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(2.0**16, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, found_inf: Tensor) -> None:
        """Adapt after a step; no host synchronisation."""
        bad = found_inf.bool()
        self.good_steps = torch.where(bad, 0, self.good_steps + 1).int()
        grow = self.good_steps >= 2000
        self.scale = torch.where(bad, self.scale * 0.5, torch.where(grow, self.scale * 2, self.scale))
        self.good_steps = torch.where(grow, 0, self.good_steps).int()
