"""`gptworks classify`: predict classes or values with a fine-tuned classifier."""

from __future__ import annotations

import io
import json as jsons
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.errors import ConfigError, DataError
from gptworks.messages import counted
from gptworks.recipe import DeviceOption

if TYPE_CHECKING:
    from gptworks.evaluation.prediction import Predictor
    from gptworks.recipe import ClassifyOptions

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".zip")
STANDARD_INPUT = Path("-")
CHUNK = 256
"""Texts to classify before their predictions are printed."""

Text = tuple[str, str | None]
"""A text, and the second text of its pair or None."""


def classify(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run of `finetune classify`, RUN@best, or a folder.")
    ],
    /,
    *,
    text: Annotated[tuple[str, ...], Parameter(help="Text to classify; can be given several times.")] = (),
    file: Annotated[
        Path | None,
        Parameter(
            help="File with one text per line, or - for standard input; or a table: .csv, .tsv, .json, .jsonl, "
            ".parquet or a zip of one.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    column: Annotated[
        str | None,
        Parameter(
            help="Table column with the text. Default: the column used in training, or one with a common name."
        ),
    ] = None,
    pair: Annotated[
        str | None,
        Parameter(
            help="For models trained on pairs: the second text, or with --file the table column with the second "
            "texts. Default: the column used in training, or one with a common name."
        ),
    ] = None,
    device: DeviceOption = "auto",
    json: Annotated[
        bool,
        Parameter(negative=(), help="Print one JSON object per text, with the probability of every class."),
    ] = False,
) -> None:
    """Predict the classes of texts, or their values if the model is a regression."""
    _check(text, file, column, pair)
    from gptworks.devices import choose_device
    from gptworks.evaluation.prediction import Predictor
    from gptworks.model import checkpoint
    from gptworks.train.classifying import options_of

    folder = checkpoint.find_checkpoint(spec)
    trained = options_of(folder)
    _check_pair(spec, trained, pair, from_text=bool(text))
    texts: list[Text] = [(single, pair) for single in text]
    texts += _read_file(file, column, pair, trained) if file else []
    reader = Predictor.load(folder)
    reader.model.to(choose_device(device))
    _print_predictions(reader, texts, json=json)


def _check(text: tuple[str, ...], file: Path | None, column: str | None, pair: str | None) -> None:
    if not text and file is None:
        raise ConfigError("classify needs --text TEXT or --file FILE")
    if any(not single.strip() for single in text):
        raise DataError("--text is empty; an empty text cannot be classified")
    if column is not None and file in {None, STANDARD_INPUT}:
        raise ConfigError(f"--column {column} needs a table: --file TABLE")
    if pair is not None and text and file is not None:
        raise ConfigError("--pair is a text with --text but a column with --file; leave out --text or --file")
    if pair is not None and file is not None and not _is_table(file, column):
        raise ConfigError(f"with --file, --pair {pair} names a column; give a table ({', '.join(TABLES)})")


def _check_pair(spec: str, trained: ClassifyOptions, pair: str | None, *, from_text: bool) -> None:
    """Require --pair if and only if the model was trained on pairs."""
    from gptworks.data import columns

    pairs = columns.on_pairs(trained)
    if pairs is False and pair is not None:
        raise ConfigError(f"{spec} was trained on single texts ({trained.text}); leave out --pair")
    if pairs and pair is None and from_text:
        raise ConfigError(
            f"{spec} was trained on pairs ({trained.text} and {trained.text_pair}); give the second text as --pair TEXT"
        )


def _print_predictions(reader: Predictor, texts: list[Text], *, json: bool) -> None:
    """Print a prediction for each text, chunk by chunk, and finally how many texts were truncated."""
    from gptworks.reports import terminal

    # blank lines of a file keep their place in the output
    blank = {"value": None} if reader.model.regression else {"label": None, "probabilities": None}
    n_truncated = 0
    with terminal.ProgressBar("classifying", len(texts)) as bar:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            predictions, cut = reader.predict([text for text in chunk if text[0].strip()])
            n_truncated += cut
            remaining = iter(predictions)
            for text in chunk:
                prediction = next(remaining) if text[0].strip() else blank
                print(
                    _json_line(text, prediction)
                    if json
                    else _tsv_line(text, prediction, alone=len(texts) == 1)
                )
            sys.stdout.flush()
            bar.advance(len(chunk))
    if n_truncated:
        terminal.say(f"{counted(n_truncated, 'text')} exceeded the model's context and lost the end")


def _json_line(texts: Text, prediction: dict[str, Any]) -> str:
    text, pair = texts
    row = {"text": text} | ({"pair": pair} if pair is not None else {}) | prediction
    return jsons.dumps(row, ensure_ascii=False)


def _tsv_line(text: Text, prediction: dict[str, Any], *, alone: bool) -> str:
    """Tab-separated class and probability, or value; and the text unless it is the only one."""
    if "value" in prediction:
        cells = ["" if prediction["value"] is None else f"{prediction['value']:.4f}"]
    elif prediction["label"] is None:
        cells = ["", ""]
    else:
        cells = [prediction["label"], f"{prediction['probabilities'][prediction['label']]:.4f}"]
    texts = [] if alone else [part for part in text if part is not None]
    return "\t".join(cells + [re.sub(r"\s", " ", part) for part in texts])


def _is_table(file: Path, column: str | None) -> bool:
    return file != STANDARD_INPUT and (column is not None or file.suffix.lower() in TABLES)


def _read_file(file: Path, column: str | None, pair: str | None, trained: ClassifyOptions) -> list[Text]:
    """The texts of a table, or the lines of a text file.

    Raises:
        DataError: the file is missing or empty, or has one text per line for a model trained on pairs.
    """
    from gptworks.data import columns, tables

    if _is_table(file, column):
        return [text for table in tables.read(file) for text in columns.texts(table, column, pair, trained)]
    if columns.on_pairs(trained):
        raise DataError(
            f"the model was trained on pairs ({trained.text} and {trained.text_pair}), but {file} has one "
            "text per line; give a table with both columns"
        )
    if not (lines := _lines(file)):
        raise DataError(f"{'standard input' if file == STANDARD_INPUT else file} contains no text")
    return [(line, None) for line in lines]


def _lines(file: Path) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
        return [line.removesuffix("\n") for line in io.StringIO(data.decode("utf-8-sig"), newline=None)]
    except FileNotFoundError:
        raise DataError(f"--file {file} does not exist") from None
    except UnicodeDecodeError as error:
        name = "standard input" if file == STANDARD_INPUT else file
        raise DataError(f"{name} is not valid UTF-8 (byte {error.start:,}); save it as UTF-8") from None
