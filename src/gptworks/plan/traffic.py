"""What many devices say to each other in a step, beside what they compute in it.

A ring of n sums and spreads G bytes by sending 2 (n - 1) / n G bytes from each (Patarasuk and Yuan 2009, "Bandwidth
optimal all-reduce algorithms for clusters of workstations"); gathering, or summing without spreading, is half of that.
"""

from gptworks.model import sizing
from gptworks.model.config import ModelConfig

DDP, ZERO1, FSDP = "ddp", "zero1", "fsdp"


def bytes_per_step(config: ModelConfig, devices: int, parallel: str, narrow: int) -> float:
    """Bytes each device sends in one step. `narrow`: bytes of a number as products take it.

    ddp: float32 gradients are summed and spread. zero1: they are summed, and updated weights spread: as much.
    fsdp: narrow weights are gathered for the forward and again for the backward pass, float32 gradients summed.
    """
    if devices == 1:
        return 0.0
    learned, every = sizing.learnable(config), sizing.parameters(config)
    share = (devices - 1) / devices
    if parallel == FSDP:
        return share * (2 * narrow * every + 4 * learned)
    return share * 2 * 4 * learned


def seconds(config: ModelConfig, devices: int, parallel: str, *, narrow: int, bandwidth: float) -> float:
    """Of saying it, with nothing computed meanwhile."""
    return bytes_per_step(config, devices, parallel, narrow) / bandwidth
