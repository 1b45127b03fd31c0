"""Bytes that devices exchange in a training step.

A ring all-reduce of G bytes over n devices sends 2 (n - 1) / n G bytes from each (Patarasuk and Yuan 2009, "Bandwidth
optimal all-reduce algorithms for clusters of workstations"); an all-gather or a reduce-scatter sends half of that.
"""

from dataclasses import dataclass

from gptworks.model import sizing
from gptworks.model.config import ModelConfig

DDP, ZERO1, FSDP = "ddp", "zero1", "fsdp"


@dataclass(frozen=True)
class Traffic:
    """Bytes that each device sends in one step."""

    overlapped: float
    """Sent while the device computes."""
    exposed: float = 0.0
    """Sent after computing, while every device waits."""

    @property
    def total(self) -> float:
        return self.overlapped + self.exposed


def step_traffic(
    config: ModelConfig,
    devices: int,
    parallel: str,
    *,
    micro_batches: int = 1,
    gathered_bytes: int = 4,
    reshard_after_forward: bool = True,
) -> Traffic:
    """The traffic of one step. Gradients and weights are float32; fsdp gathers `gathered_bytes` per weight of a block.

    ddp all-reduces gradients. zero1 does the same, then all-gathers updated weights. fsdp all-gathers the blocks'
    weights for each forward, and after resharding for each backward, and reduce-scatters gradients once.
    """
    if devices == 1:
        return Traffic(0.0)
    share = (devices - 1) / devices
    gradients = share * 4 * sizing.trainable(config)
    if parallel != FSDP:
        return Traffic(2 * gradients, gradients if parallel == ZERO1 else 0.0)
    parameters, blocks = sizing.parameters(config), sizing.blocks(config)
    once = 4 * (parameters - blocks) + gathered_bytes * blocks * (2 if reshard_after_forward else 1)
    return Traffic(share * micro_batches * once + gradients)
