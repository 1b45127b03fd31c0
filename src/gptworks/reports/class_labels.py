"""Makes class names fit into plots: they may be long and in any script."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gptworks import messages

MAX_LETTERS = 24
"""Longest name in a plot."""

MAX_SLANTED = 12
"""With more names than this, tick labels stand upright."""


def shorten(labels: Sequence[str]) -> list[str]:
    """Cut long names at a word, or within a long word."""
    cut = [messages.shorten(label, MAX_LETTERS) for label in labels]
    return [label if len(label) <= MAX_LETTERS + 4 else f"{label[:MAX_LETTERS]}..." for label in cut]


def tick_style(names: Sequence[str], max_letters: int) -> dict[str, Any]:
    """Text properties for x tick labels: rotated if the names together may exceed `max_letters`."""
    if len(names) * max(map(len, names), default=0) <= max_letters:
        return {}
    if len(names) > MAX_SLANTED:
        return {"rotation": 90, "fontsize": 8}
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Draw characters that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        warnings.filterwarnings("ignore", r"Matplotlib currently does not support", UserWarning)
        yield
