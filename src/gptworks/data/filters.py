"""Which documents stay, and how long: the filters of the five systems, one document at a time.

A filter never counts further than it must: `str.split` with a limit stops at the word that decides.
"""

from gptworks.data.records import Document, Fate
from gptworks.recipe import PrepareOptions


def judge(document: Document, options: PrepareOptions) -> tuple[str, Fate, bool]:
    """The text that stays, what becomes of the document, and whether words were cut off."""
    if document.fate is not Fate.KEPT:
        return "", document.fate, False
    text = document.text
    if options.keep_sets and document.set not in options.keep_sets:
        return "", Fate.OTHER_SET, False
    if not text:
        return "", Fate.EMPTY, False
    if options.min_words and len(text.split(None, options.min_words - 1)) < options.min_words:
        return "", Fate.TOO_SHORT, False
    if options.max_words is None:
        return text, Fate.KEPT, False
    cut = first_words(text, options.max_words)
    if len(cut) == len(text):
        return text, Fate.KEPT, False
    return ("", Fate.TOO_LONG, False) if options.drop_long else (cut, Fate.KEPT, True)


def first_words(text: str, n_words: int) -> str:
    """The text up to the end of its n-th word, white space inside kept; all of it where no words follow."""
    parts = text.split(None, n_words)
    if len(parts) <= n_words:
        return text
    return text[: len(text) - len(parts[-1])].rstrip()
