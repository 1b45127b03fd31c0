"""Which columns of a table hold the text, a second text and the label: as told, or guessed by name."""

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
"""Names people give to a column of texts. Capitals tell none apart, nor underscores from spaces."""
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
"""Names people and GLUE give to the two texts of a pair."""
WORDS = 3
"""A column whose cells have so many on average, and are seldom the same, is of texts whatever its name."""


class Choice(NamedTuple):
    """Names of the columns that are used."""

    text: str
    pair: str | None
    label: str


def choose(table: Table, options: ClassifyOptions) -> Choice:
    """The columns of a table.

    Raises:
        DataError: a column that was named is missing, or none looks right; with those there are.
    """
    for flag, name in (("--text", options.text), ("--pair", options.pair), ("--label", options.label)):
        if name is not None and name not in table.columns:
            raise DataError(f"{flag} {name}: {table.name} has no such column; there are {_listed(table)}")
    text, pair = options.text, options.pair
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
            f"no column of {table.name} looks like a label; name one with --label: {_listed(table)}"
        )
    return Choice(text, pair, label)


def on_pairs(trained: ClassifyOptions) -> bool | None:
    """Whether a classifier learned from pairs of texts; None where nothing says it, as in a merged model's folder."""
    if trained.pair is None and trained.text is None:
        return None
    return trained.pair is not None


def texts(
    table: Table, text: str | None, pair: str | None, trained: ClassifyOptions
) -> list[tuple[str, str | None]]:
    """The texts of a table that a classifier is to read, each with its second where it reads pairs.

    Of the columns named; else of those of training; else of those that look like it, or of the only one. A cell
    without a text is an empty one.

    Raises:
        DataError: there is no such column, or none looks right; with those there are.
    """
    for flag, name in (("--column", text), ("--pair", pair)):
        if name is not None and name not in table.columns:
            raise DataError(f"{table.name}: {flag} {name}: no such column; there are {_listed(table)}")
    known = [name if name in table.columns else None for name in (trained.text, trained.pair)]
    first, second = text or known[0], pair or known[1]
    pairs = on_pairs(trained)
    if text is None and pairs is not False and None in known:
        looks = _pair_of(table)
        first, second = first or looks[0], second or looks[1]
    only = next(iter(table.columns)) if len(table.columns) == 1 else None
    first = first or _named(table, TEXTS, {second}) or only
    if first is None:
        why = "no column looks like the text; name one with --column"
        raise DataError(f"{table.name}: {why}; there are {_listed(table)}")
    if pairs and second in {None, first}:
        why = f"the model was trained on pairs, and no column looks like what goes with {first}; name one with --pair"
        raise DataError(f"{table.name}: {why}; there are {_listed(table)}")
    firsts = ["" if cell is None else str(cell) for cell in table.columns[first]]
    if second is None:
        return [(cell, None) for cell in firsts]
    seconds = ["" if cell is None else str(cell) for cell in table.columns[second]]
    return list(zip(firsts, seconds, strict=True))


def _pair_of(table: Table) -> tuple[str, str] | tuple[None, None]:
    """The columns that are called as the two texts of a pair often are."""
    plain = {_plain(name): name for name in table.columns}
    found = ((plain[first], plain[second]) for first, second in PAIRS if first in plain and second in plain)
    return next(found, (None, None))


def _guess_texts(table: Table, options: ClassifyOptions) -> tuple[str, str | None]:
    first, second = _pair_of(table)
    if first is not None and options.pair is None:
        return first, second
    taken = {options.pair, options.label}
    text = _named(table, TEXTS, taken)
    if text is None and len(table.columns) == 2:
        label = options.label or _named(table, LABELS, taken)
        text = next((name for name in table.columns if name != label), None) if label else None
    if text is None:
        text = _only(name for name in table.columns if name not in taken and _is_prose(table, name))
    if text is None:
        raise DataError(
            f"no column of {table.name} looks like the text; name one with --text: {_listed(table)}"
        )
    return text, None


def _named(table: Table, names: tuple[str, ...], taken: set[str | None]) -> str | None:
    plain = {_plain(name): name for name in table.columns if name not in taken}
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    """A column's name as this page spells it."""
    return " ".join(name.lower().replace("_", " ").split())


def _only(names: Iterable[str]) -> str | None:
    """The name, if there is one alone."""
    found = list(names)
    return found[0] if len(found) == 1 else None


def _is_prose(table: Table, name: str) -> bool:
    cells = [cell for cell in table.columns[name] if isinstance(cell, str)]
    words = sum(len(cell.split()) for cell in cells)
    return words >= WORDS * max(1, len(cells)) and len(set(cells)) > len(cells) / 2


def _is_index(table: Table, name: str) -> bool:
    """Whole numbers of which no two are the same name rows, no classes."""
    cells = [str(cell) for cell in table.columns[name]]
    return len(cells) > 1 and len(set(cells)) == len(cells) and all(cell.isdecimal() for cell in cells)


def _listed(table: Table) -> str:
    return ", ".join(table.columns)
