"""`gptworks classify`: a fine-tuned classifier says what texts are."""

from __future__ import annotations

import io
import json as jsons
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError, DataError
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.evaluate.verdicts import Reader
    from gptworks.recipe import ClassifyOptions

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".zip")
STANDARD_INPUT = Path("-")
ROWS = 256
"""Texts read at once: what is said of them is out before the next are read."""

Text = tuple[str, str | None]
"""A text, and the one that goes with it where the model reads pairs."""


def classify(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run of `finetune classify`, RUN@best, or a folder.")
    ],
    /,
    *,
    text: Annotated[tuple[str, ...], Parameter(help="A text; several are several texts.")] = (),
    file: Annotated[
        Path | None,
        Parameter(
            help="A file of texts, one a line, - for standard input; or a table: .csv, .tsv, .json, .jsonl, "
            ".parquet, a zip of one.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    column: Annotated[
        str | None,
        Parameter(
            help="The table's column with the text. Default: the one of training; else guessed by its name."
        ),
    ] = None,
    pair: Annotated[
        str | None,
        Parameter(
            help="Where the model was trained on pairs: the second text; with --file the table's column with it. "
            "Default there: the one of training; else guessed by its name."
        ),
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), help="Print an object a text, with every class's probability.")
    ] = False,
) -> None:
    """Say the class of texts, or the number a model predicts for them."""
    _check(text, file, column, pair)
    from gptworks.evaluate.verdicts import Reader
    from gptworks.model import checkpoint
    from gptworks.train.classifying import options_of
    from gptworks.world import default_device

    folder = checkpoint.resolve(spec)
    trained = options_of(folder)
    _check_pair(spec, trained, pair, of_texts=bool(text))
    texts: list[Text] = [(one, pair) for one in text]
    texts += _of_file(file, column, pair, trained) if file else []
    reader = Reader.load(folder)
    reader.model.to(default_device())
    _answer(reader, texts, json=json)


def _check(text: tuple[str, ...], file: Path | None, column: str | None, pair: str | None) -> None:
    if not text and file is None:
        raise ConfigError("classify needs --text TEXT or --file FILE")
    if any(not one.strip() for one in text):
        raise DataError("an empty text has no class; leave it out")
    if column is not None and file in {None, STANDARD_INPUT}:
        raise ConfigError(f"--column {column} is one of a table: give it as --file TABLE")
    if pair is not None and text and file is not None:
        raise ConfigError(
            "--pair is a text beside --text and a column beside --file: leave out one of the two"
        )
    if pair is not None and file is not None and not _is_table(file, column):
        raise ConfigError(
            f"--pair {pair} is a column where there is a --file: give a table, {', '.join(TABLES)}"
        )


def _check_pair(spec: str, trained: ClassifyOptions, pair: str | None, *, of_texts: bool) -> None:
    """Refuse a second text where training had none, and a single one where it had two."""
    from gptworks.data import columns

    pairs = columns.on_pairs(trained)
    if pairs is False and pair is not None:
        raise ConfigError(f"{spec} was trained on single texts ({trained.text}): leave out --pair")
    if pairs and pair is None and of_texts:
        raise ConfigError(
            f"{spec} was trained on pairs ({trained.text} and {trained.pair}): give the second text as --pair TEXT"
        )


def _answer(reader: Reader, texts: list[Text], *, json: bool) -> None:
    """Print what the model says of texts, a chunk at a time; and how many it could not read to their end."""
    from gptworks.report import terminal

    number, n_cut = reader.model.regression, 0
    with terminal.Counting("classifying", len(texts)) as counting:
        for start in range(0, len(texts), ROWS):
            chunk = texts[start : start + ROWS]
            answers, cut = reader.read([one for one in chunk if one[0].strip()])
            n_cut += cut
            found = iter(answers)
            for one in chunk:
                answer = next(found) if one[0].strip() else _nothing(number=number)
                print(_object(one, answer) if json else _line(one, answer, alone=len(texts) == 1))
            sys.stdout.flush()
            counting.advance(len(chunk))
    if n_cut:
        terminal.say(f"{counted(n_cut, 'text')} longer than the model reads: cut at the end")


def _nothing(*, number: bool) -> dict[str, Any]:
    """What is said of no text."""
    return {"value": None} if number else {"label": None, "probabilities": None}


def _object(one: Text, answer: dict[str, Any]) -> str:
    text, pair = one
    return jsons.dumps(
        {"text": text} | ({"pair": pair} if pair is not None else {}) | answer, ensure_ascii=False
    )


def _line(one: Text, answer: dict[str, Any], *, alone: bool) -> str:
    """Cells between tabs: the class and its probability, or the number; and the text, in one line."""
    if "value" in answer:
        cells = ["" if answer["value"] is None else f"{answer['value']:.4f}"]
    elif answer["label"] is None:
        cells = ["", ""]
    else:
        cells = [answer["label"], f"{answer['probabilities'][answer['label']]:.4f}"]
    texts = [] if alone else [part for part in one if part is not None]
    return "\t".join(cells + [re.sub(r"\s", " ", part) for part in texts])


def _is_table(file: Path, column: str | None) -> bool:
    return file != STANDARD_INPUT and (column is not None or file.suffix.lower() in TABLES)


def _of_file(file: Path, column: str | None, pair: str | None, trained: ClassifyOptions) -> list[Text]:
    """The texts of a table, or else a file's lines.

    Raises:
        DataError: there is none; or the model reads pairs, and there is one text a line.
    """
    from gptworks.data import columns, tables

    if _is_table(file, column):
        return [one for table in tables.read(file) for one in columns.texts(table, column, pair, trained)]
    if columns.on_pairs(trained):
        raise DataError(
            f"the model was trained on pairs ({trained.text} and {trained.pair}), and {file} holds one text a line: "
            "give a table with both"
        )
    if not (lines := _lines(file)):
        raise DataError(f"{'standard input' if file == STANDARD_INPUT else file} holds no text")
    return [(line, None) for line in lines]


def _lines(file: Path) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
        return [line.removesuffix("\n") for line in io.StringIO(data.decode("utf-8-sig"), newline=None)]
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except UnicodeDecodeError as error:
        name = "standard input" if file == STANDARD_INPUT else file
        raise DataError(f"{name} is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
