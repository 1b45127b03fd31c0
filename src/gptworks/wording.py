"""How messages are put."""

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[object], least: float = 0.6) -> str:
    """In brackets, those of `names` most like a name that leads nowhere; nothing if none is `least` like it."""
    found = difflib.get_close_matches(str(name), map(str, names), 3, least)
    return f" (the nearest: {', '.join(found)})" if found else ""


def counted(number: int, noun: str) -> str:
    """`1 layer`, `12,000 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def beginning(text: str, most: int) -> str:
    """A text in one line; of a longer one than `most` letters the first words, and that there are more."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ..."


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut where it becomes a page."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return beginning(lines[0], 200) if lines else type(error).__name__
