"""Names of classes in pictures: people call classes what they like, in any script and at any length."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gptworks.wording import beginning

LONGEST = 24
"""Letters of a name that stand in a picture."""

MANY = 12
"""More names than these stand upright under an axis."""


def shortened(labels: Sequence[str]) -> list[str]:
    """The names, or their beginnings; one long word is cut."""
    cut = [beginning(label, LONGEST) for label in labels]
    return [label if len(label) <= LONGEST + 4 else f"{label[:LONGEST]}..." for label in cut]


def under(names: Sequence[str], letters: int) -> dict[str, Any]:
    """How names stand under ticks: slanted where together they have more than so many letters."""
    if len(names) * max(map(len, names), default=0) <= letters:
        return {}
    if len(names) > MANY:
        return {"rotation": 90, "fontsize": 8}
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}


@contextmanager
def any_script() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without a line in the terminal for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support", UserWarning)
        yield
