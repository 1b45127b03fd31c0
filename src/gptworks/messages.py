"""Small functions for the wording of messages."""

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[object], cutoff: float = 0.6) -> str:
    """List the names most similar to a mistyped one, in parentheses; "" if none has a similarity of `cutoff`."""
    matches = difflib.get_close_matches(str(name), map(str, names), 3, cutoff)
    return f" (the nearest: {', '.join(matches)})" if matches else ""


def counted(n: int, noun: str) -> str:
    """`1 layer`, `12,000 layers`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def shorten(text: str, max_chars: int) -> str:
    """Put a text on one line; if it has more than `max_chars` characters, keep whole words and end with ` ...`."""
    text = " ".join(text.split())
    return text if len(text) <= max_chars else f"{text[:max_chars].rsplit(' ', 1)[0]} ..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened to 200 characters."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shorten(lines[0], 200) if lines else type(error).__name__
