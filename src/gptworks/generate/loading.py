"""A model folder opened for generation: where and how it is fastest here."""

from pathlib import Path

from gptworks.model import checkpoint
from gptworks.model.build import Model
from gptworks.model.int8 import narrow
from gptworks.world import DTYPES, default_device, fast_dtype


def open_model(folder: Path, *, int8: bool = False) -> Model:
    """The network on the best device, in evaluation mode.

    A GPU reads half the bytes in half the time; on a CPU one row at a time is fastest in float32.
    """
    device = default_device()
    dtype = DTYPES["fp32" if device.type == "cpu" else fast_dtype(device)]
    model = checkpoint.load(folder, dtype=dtype).to(device)
    return narrow(model) if int8 else model
