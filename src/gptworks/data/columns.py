"""Which columns of a table hold the text, a second text and the label: as told, or guessed by name."""

from typing import NamedTuple

from gptworks.data.tables import Table
from gptworks.errors import DataError
from gptworks.recipe import ClassifyOptions

TEXTS = (
    "text",
    "sentence",
    "message",
    "sms",
    "review",
    "content",
    "tweet",
    "comment",
    "body",
    "document",
    "v2",
)
LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "gold_label",
    "score",
    "quality",
    "v1",
)
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("#1 string", "#2 string"),
)
"""Names people and GLUE give to the two texts of a pair."""


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
    if label is None and len(table.columns) == 2:
        label = next(name for name in table.columns if name != text)
    if label is None:
        raise DataError(
            f"no column of {table.name} looks like a label; name one with --label: {_listed(table)}"
        )
    return Choice(text, pair, label)


def texts(table: Table, name: str | None) -> list[str]:
    """The texts of a table: of the column named, of the one that looks like it, or of the only one.

    Raises:
        DataError: there is no such column, or a row has no text.
    """
    only = next(iter(table.columns)) if len(table.columns) == 1 else None
    found = name or _named(table, TEXTS, set()) or only
    if found not in table.columns:
        why = (
            f"--column {name}: no such column"
            if name
            else "no column looks like the text; name one with --column"
        )
        raise DataError(f"{table.name}: {why}; there are {_listed(table)}")
    cells = ["" if cell is None else str(cell) for cell in table.columns[found]]
    for row, cell in enumerate(cells, 1):
        if not cell.strip():
            raise DataError(f"{table.name}: row {row} has no text in {found}; leave it out")
    return cells


def _guess_texts(table: Table, options: ClassifyOptions) -> tuple[str, str | None]:
    lower = {name.lower(): name for name in table.columns}
    for first, second in PAIRS if options.pair is None else ():
        if first in lower and second in lower:
            return lower[first], lower[second]
    taken = {options.pair, options.label}
    text = _named(table, TEXTS, taken)
    if text is None and len(table.columns) == 2:
        label = options.label or _named(table, LABELS, taken)
        text = next((name for name in table.columns if name != label), None) if label else None
    if text is None:
        raise DataError(
            f"no column of {table.name} looks like the text; name one with --text: {_listed(table)}"
        )
    return text, None


def _named(table: Table, names: tuple[str, ...], taken: set[str | None]) -> str | None:
    lower = {name.lower(): name for name in table.columns if name not in taken}
    return next((lower[name] for name in names if name in lower), None)


def _listed(table: Table) -> str:
    return ", ".join(table.columns)
