"""How messages are put."""


def counted(number: int, noun: str) -> str:
    """`1 layer`, `12,000 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
