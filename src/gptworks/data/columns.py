"""Which columns of a table hold the text, a second text and the label: as given, or guessed from their names."""

from collections.abc import Iterable
from typing import NamedTuple

from gptworks.data.tables import Table
from gptworks.errors import DataError
from gptworks.recipe import ClassifyOptions

TEXTS = (
    "text",
    "sentence",
    "message",
    "sms",
    "review text",
    "review",
    "content",
    "tweet",
    "comment",
    "body",
    "document",
    "description",
    "title",
    "v2",
)
"""Common names of text columns. Capitals do not matter, and underscores count as spaces."""
LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "gold label",
    "score",
    "quality",
    "v1",
)
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text a", "text b"),
    ("text1", "text2"),
    ("#1 string", "#2 string"),
)
"""Common names of the two columns of a text pair, GLUE's among them."""
MIN_WORDS = 3
"""A column with at least this many words per cell on average, and mostly distinct cells, holds texts."""


class Columns(NamedTuple):
    """The names of the columns that are used."""

    text: str
    text_pair: str | None
    label: str


def choose(table: Table, options: ClassifyOptions) -> Columns:
    """The columns of a table.

    Raises:
        DataError: a given column is missing, or none looks right; lists the columns.
    """
    for flag, name in (
        ("--text", options.text),
        ("--text-pair", options.text_pair),
        ("--label", options.label),
    ):
        if name is not None and name not in table.columns:
            raise DataError(f"{flag} {name}: {table.name} has no such column; it has {_listed(table)}")
    text, pair = options.text, options.text_pair
    if text is None:
        text, guessed = _guess_texts(table, options)
        pair = pair or guessed
    label = options.label or _named(table, LABELS, {text, pair})
    if label is None:
        label = _only(
            name for name in table.columns if name not in {text, pair} and not _is_index(table, name)
        )
    if label is None:
        raise DataError(
            f"no column of {table.name} looks like a label; set --label to one of {_listed(table)}"
        )
    return Columns(text, pair, label)


def on_pairs(trained: ClassifyOptions) -> bool | None:
    """True if a classifier was trained on pairs of texts; None if unknown, as for a merged model's folder."""
    if trained.text_pair is None and trained.text is None:
        return None
    return trained.text_pair is not None


def texts(
    table: Table, text: str | None, pair: str | None, trained: ClassifyOptions
) -> list[tuple[str, str | None]]:
    """The texts of a table for a classifier to read, with second texts if it reads pairs.

    Uses the given columns, else those of training, else those that look right or the only one. A cell without a
    text counts as empty.

    Raises:
        DataError: a given column is missing, or none looks right; lists the columns.
    """
    for flag, name in (("--column", text), ("--pair", pair)):
        if name is not None and name not in table.columns:
            raise DataError(f"{flag} {name}: {table.name} has no such column; it has {_listed(table)}")
    known = [name if name in table.columns else None for name in (trained.text, trained.text_pair)]
    first, second = text or known[0], pair or known[1]
    pairs = on_pairs(trained)
    if text is None and pairs is not False and None in known:
        guess = _pair_of(table)
        first, second = first or guess[0], second or guess[1]
    only = next(iter(table.columns)) if len(table.columns) == 1 else None
    first = first or _named(table, TEXTS, {second}) or only
    if first is None:
        raise DataError(
            f"no column of {table.name} looks like the text; set --column to one of {_listed(table)}"
        )
    if pairs and second in {None, first}:
        raise DataError(
            f"the model was trained on text pairs, and no column of {table.name} looks like the partner of {first}; "
            f"set --pair to one of {_listed(table)}"
        )
    firsts = ["" if cell is None else str(cell) for cell in table.columns[first]]
    if second is None:
        return [(cell, None) for cell in firsts]
    seconds = ["" if cell is None else str(cell) for cell in table.columns[second]]
    return list(zip(firsts, seconds, strict=True))


def _pair_of(table: Table) -> tuple[str, str] | tuple[None, None]:
    """The columns with a common pair of names."""
    plain = {_plain(name): name for name in table.columns}
    matches = ((plain[first], plain[second]) for first, second in PAIRS if first in plain and second in plain)
    return next(matches, (None, None))


def _guess_texts(table: Table, options: ClassifyOptions) -> tuple[str, str | None]:
    first, second = _pair_of(table)
    if first is not None and options.text_pair is None:
        return first, second
    taken = {options.text_pair, options.label}
    text = _named(table, TEXTS, taken)
    if text is None and len(table.columns) == 2:
        label = options.label or _named(table, LABELS, taken)
        text = next((name for name in table.columns if name != label), None) if label else None
    if text is None:
        text = _only(name for name in table.columns if name not in taken and _is_prose(table, name))
    if text is None:
        raise DataError(
            f"no column of {table.name} looks like the text; set --text to one of {_listed(table)}"
        )
    return text, None


def _named(table: Table, names: tuple[str, ...], taken: set[str | None]) -> str | None:
    plain = {_plain(name): name for name in table.columns if name not in taken}
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    """A column's name in this module's spelling."""
    return " ".join(name.lower().replace("_", " ").split())


def _only(names: Iterable[str]) -> str | None:
    """The name, if it is the only one."""
    unique = list(names)
    return unique[0] if len(unique) == 1 else None


def _is_prose(table: Table, name: str) -> bool:
    cells = [cell for cell in table.columns[name] if isinstance(cell, str)]
    words = sum(len(cell.split()) for cell in cells)
    return words >= MIN_WORDS * max(1, len(cells)) and len(set(cells)) > len(cells) / 2


def _is_index(table: Table, name: str) -> bool:
    """True if all cells are different whole numbers: they number rows and are not classes."""
    cells = [str(cell) for cell in table.columns[name]]
    return len(cells) > 1 and len(set(cells)) == len(cells) and all(cell.isdecimal() for cell in cells)


def _listed(table: Table) -> str:
    return ", ".join(table.columns)
