"""The hardware that a run is planned for: this machine, or one that is only named.

`h100x8` is eight of a known GPU, `a100-40gb` a known GPU with another memory, `8GB` any GPU with that much memory, and
`cpu` this machine's processor. Figures of known GPUs are their datasheets'.
"""

import re
from dataclasses import dataclass, replace

import torch

from gptworks.devices import default_device, describe
from gptworks.errors import ConfigError
from gptworks.host_memory import memory_available, memory_total
from gptworks.recipe import TrainOptions
from gptworks.train.peak import GPUS, known_gpu, peak_flops
from gptworks.train.precision import Precision, choose

GPUS_PER_MACHINE = 8
NETWORK = 50e9
"""Bytes/s one way for each GPU between machines: a 400 Gbit/s adapter per GPU, usual in machines with eight."""

WITHOUT_BF16 = {"T4", "V100"}


@dataclass(frozen=True)
class Hardware:
    """One or more equal devices that train together."""

    name: str
    kind: str
    """cpu, cuda or mps."""
    memory: int | None
    """Bytes per device; None if unknown."""
    peak: float | None
    """FLOP/s per device; None if unknown."""
    precision: Precision
    count: int = 1
    link: float = 32e9
    """Bytes/s one way to another device in the same machine."""
    watts: float | None = None
    """Maximum power per device."""

    @property
    def bandwidth(self) -> float:
        """Bytes/s one way per device in a ring over all devices, limited by the slowest link."""
        return self.link if self.count <= GPUS_PER_MACHINE else min(self.link, NETWORK)


def parse_hardware(text: str | None, options: TrainOptions) -> Hardware:
    """The hardware that --hardware names; None is the device that a run would use here.

    Raises:
        ConfigError: it is unknown.
    """
    if text is None:
        return this_machine(default_device(), options)
    if text == "cpu":
        return this_machine(torch.device("cpu"), options)
    match = re.fullmatch(
        r"(?:(?!\d+gb)([a-z]*\d+[a-z]*?)(?:-(\d+)gb)?|(\d+(?:\.\d+)?)gb)(?:x(\d+))?", text.lower()
    )
    if match is None or (match[1] and match[1].upper() not in GPUS) or match[4] == "0":
        raise ConfigError(
            f"--hardware {text} is unknown; give cpu, a memory such as 8GB, or one of {', '.join(GPUS).lower()}, "
            "with -40gb for another memory and x8 for eight devices"
        )
    count = int(match[4] or 1)
    name = (match[1] or "").upper()
    fastest = "fp16" if name in WITHOUT_BF16 else "bf16"
    precision = Precision(fastest if options.precision == "auto" else options.precision, torch.device("cuda"))
    if match[3]:
        return Hardware(f"{match[3]} GB GPU", "cuda", int(float(match[3]) * 1e9), None, precision, count)
    spec = GPUS[name]
    gigabytes = int(match[2] or spec.memory_gb)
    peak = None if precision.name == "fp32" else spec.flops
    title, memory = f"{name} {gigabytes} GB", int(gigabytes * 1e9)
    return Hardware(title, "cuda", memory, peak, precision, count, spec.link, spec.watts)


def this_machine(device: torch.device, options: TrainOptions) -> Hardware:
    """A device of this machine. The CPU counts as one device, regardless of its cores."""
    precision = choose(options.precision, device)
    free = memory_available(device)
    hardware = Hardware(describe(device), device.type, free, peak_flops(precision), precision)
    if device.type != "cuda":
        return hardware
    if (spec := known_gpu(hardware.name)) is not None:
        hardware = replace(hardware, link=spec.link, watts=spec.watts)
    return replace(hardware, memory=free or memory_total(device))
