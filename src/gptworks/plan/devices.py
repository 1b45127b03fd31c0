"""What runs are planned for: this machine, or one that is named and need not be here.

`h100x8` is eight of a known GPU, `a100-40gb` one with another memory than usual, `8GB` any GPU with so much, `cpu` this
machine's processor. Figures are the makers' datasheets': dense FLOP/s with float32 sums, bytes/s one way, most watts.
"""

import re
from dataclasses import dataclass, replace

import torch

from gptworks.errors import ConfigError
from gptworks.recipe import TrainOptions
from gptworks.train.peak import DATASHEET, peak_flops
from gptworks.train.precision import Precision, choose
from gptworks.world import default_device, describe, memory_available, memory_total

GPUS_PER_MACHINE = 8
NETWORK = 50e9
"""Bytes/s one way for each GPU between machines: a 400 Gbit/s adapter each, as machines with eight of them have."""

KNOWN = {
    # GB of memory, GB/s one way to a neighbour, watts
    "H200": (141, 450, 700),
    "H100": (80, 450, 700),
    "A100": (80, 300, 400),
    "L40S": (48, 32, 350),
    "L4": (24, 32, 72),
    "A10G": (24, 32, 300),
    "4090": (24, 32, 450),
    "3090": (24, 32, 350),
    "3070": (8, 32, 220),
    "T4": (16, 16, 70),
    "V100": (32, 150, 300),
}
"""The GPUs that train/peak.py knows the speed of."""

WITHOUT_BF16 = {"T4", "V100"}


@dataclass(frozen=True)
class Device:
    """One device, and how many of its kind work together."""

    name: str
    kind: str
    """cpu, cuda or mps, as torch names them."""
    memory: int | None
    """Bytes a process may fill; None where nobody says."""
    peak: float | None
    """FLOP/s of one; None where it is not known."""
    precision: Precision
    count: int = 1
    link: float = 32e9
    """Bytes/s one way to a neighbour in the same machine."""
    watts: float | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes/s one way that each has for sums over all: of the slowest link on the ring."""
        return self.link if self.count <= GPUS_PER_MACHINE else min(self.link, NETWORK)


def named(text: str | None, options: TrainOptions) -> Device:
    """The device a person means; None: what a run would take here.

    Raises:
        ConfigError: nobody knows it.
    """
    if text is None:
        return here(default_device(), options)
    if text == "cpu":
        return here(torch.device("cpu"), options)
    match = re.fullmatch(
        r"(?:(?!\d+gb)([a-z]*\d+[a-z]*?)(?:-(\d+)gb)?|(\d+(?:\.\d+)?)gb)(?:x(\d+))?", text.lower()
    )
    if match is None or (match[1] and match[1].upper() not in KNOWN) or match[4] == "0":
        raise ConfigError(
            f"--device {text} is not known: give cpu, a memory such as 8GB, or one of "
            f"{', '.join(KNOWN).lower()}, with -40gb for another memory and x8 for eight of them"
        )
    count = int(match[4] or 1)
    if match[3]:
        numbers = Precision(
            "bf16" if options.precision == "auto" else options.precision, torch.device("cuda")
        )
        return Device(f"{match[3]} GB GPU", "cuda", int(float(match[3]) * 1e9), None, numbers, count)
    name = match[1].upper()
    usual, link, watts = KNOWN[name]
    memory = int(match[2] or usual)
    fast = "fp16" if name in WITHOUT_BF16 else "bf16"
    numbers = Precision(fast if options.precision == "auto" else options.precision, torch.device("cuda"))
    peak = DATASHEET[name] if numbers.name != "fp32" else None
    return Device(f"{name} {memory} GB", "cuda", int(memory * 1e9), peak, numbers, count, link * 1e9, watts)


def here(device: torch.device, options: TrainOptions) -> Device:
    """This machine's. Its processor counts as one device, however many cores it has."""
    numbers = choose(options.precision, device)
    free = memory_available(device)
    found = Device(describe(device), device.type, free, peak_flops(numbers), numbers)
    if device.type != "cuda":
        return found
    known = next((KNOWN[name] for name in KNOWN if name in found.name), None)
    if known is not None:
        found = replace(found, link=known[1] * 1e9, watts=known[2])
    return replace(found, memory=free or memory_total(device))
