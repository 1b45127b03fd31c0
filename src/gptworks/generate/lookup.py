"""Guessing a text's next tokens from what it, or its prompt, has said before.

Saxena 2023, "Prompt Lookup Decoding". The guesses are read in one step and kept as far as they are what is drawn there
anyway (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", with draws whose chance is
fixed beforehand): the text is the same, in fewer steps where it repeats.
"""

LONGEST, SHORTEST = 3, 2
"""Tokens at the end of a text that must have been said before."""


def guess(ids: list[int], most: int) -> list[int]:
    """Up to `most` tokens that came after the last place where the text said what it says now."""
    for n in range(LONGEST, SHORTEST - 1, -1):
        end = ids[-n:]
        for start in range(len(ids) - n - 1, -1, -1):
            if ids[start] == end[0] and ids[start : start + n] == end:
                return ids[start + n : start + n + most]
    return []
