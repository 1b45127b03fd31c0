"""Row packing: several texts share a row, so that little of a batch is padding.

First-fit decreasing, which needs at most 11/9 of the fewest rows possible: Johnson 1973, "Near-Optimal Bin Packing
Algorithms".
"""

from collections.abc import Sequence


def first_fit(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(row, start) of each text in rows of at most `width` tokens, and (R, T), the shape that holds them all.

    The longest text goes first; each goes into the first row with room for it.
    """
    used: list[int] = []
    places = [(0, 0)] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((i for i, taken in enumerate(used) if taken + lengths[index] <= width), len(used))
        if row == len(used):
            used.append(0)
        places[index] = row, used[row]
        used[row] += lengths[index]
    return places, (len(used), max(used))
