"""What many devices say to each other in a step, beside what they compute in it.

A ring of n sums and spreads G bytes by sending 2 (n - 1) / n G bytes from each (Patarasuk and Yuan 2009, "Bandwidth
optimal all-reduce algorithms for clusters of workstations"); gathering, or summing without spreading, is half of that.
"""

from dataclasses import dataclass

from gptworks.model import sizing
from gptworks.model.config import ModelConfig

DDP, ZERO1, FSDP = "ddp", "zero1", "fsdp"


@dataclass(frozen=True)
class Traffic:
    """Bytes that each device sends in one step."""

    beside: float
    """While it computes."""
    after: float = 0.0
    """When all is computed, and every device waits."""

    @property
    def total(self) -> float:
        return self.beside + self.after


def of_a_step(
    config: ModelConfig,
    devices: int,
    parallel: str,
    *,
    micro_batches: int = 1,
    gathered: int = 4,
    reshard: bool = True,
) -> Traffic:
    """Of a step cut into so many micro-batches. Weights are float32; `gathered`: bytes of each of fsdp's on its way.

    ddp: gradients are summed and spread. zero1: the same, and updated weights spread. fsdp: blocks' weights are
    gathered for each forward, and with `reshard` again for each backward; gradients are summed once.
    """
    if devices == 1:
        return Traffic(0.0)
    share = (devices - 1) / devices
    gradients = share * 4 * sizing.learnable(config)
    if parallel != FSDP:
        return Traffic(2 * gradients, gradients if parallel == ZERO1 else 0.0)
    every, blocks = sizing.parameters(config), sizing.blocks(config)
    once = 4 * (every - blocks) + gathered * blocks * (2 if reshard else 1)
    return Traffic(share * micro_batches * once + gradients)
