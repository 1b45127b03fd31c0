"""The documents of a source as texts, one after another: what `prepare` encodes, for anyone to look at."""

from collections.abc import Iterator
from itertools import islice

from gptworks.data.filters import judge
from gptworks.data.pieces import cut
from gptworks.data.records import FAULTS, Document, Fate, Keys, refuse
from gptworks.data.sources import find
from gptworks.recipe import PrepareOptions

__all__ = ["Document", "documents"]


def documents(source: str, options: PrepareOptions) -> Iterator[Document]:
    """The documents of a source that the filters leave, cut to their words. Large text files come in parts.

    Raises:
        DataError: there is no such source, it holds no text, or it cannot be read and on_error is stop.
    """
    for document in islice(_all(source, options), options.limit):
        text, fate, _ = judge(document, options)
        if fate is Fate.KEPT:
            yield document._replace(text=text)


def _all(source: str, options: PrepareOptions) -> Iterator[Document]:
    for piece in cut(find(source, options), 0, options, None):
        for document in piece.reading.documents(Keys.of(options)):
            if document.fate in FAULTS and options.on_error == "stop":
                raise refuse(document, piece.reading.place(document))
            yield document
