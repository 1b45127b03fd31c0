"""`gptworks classify`: a fine-tuned classifier says what texts are."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks import recipefile, runs
from gptworks.errors import ConfigError, DataError

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".zip")
STANDARD_INPUT = Path("-")


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
        str | None, Parameter(help="The second text, where the model was trained on pairs.")
    ] = None,
    json: Annotated[
        bool, Parameter(negative=(), help="Print an object a text, with every class's probability.")
    ] = False,
) -> None:
    """Say the class of texts, or the number a model predicts for them."""
    if column is not None and file in {None, STANDARD_INPUT}:
        raise ConfigError(f"--column {column} is one of a table: give it as --file TABLE")
    texts = [*text, *(_of_file(file, column, spec) if file else [])]
    if not texts:
        raise ConfigError("classify needs --text TEXT or --file FILE")
    if any(not one.strip() for one in texts):
        raise DataError("an empty text has no class; leave it out")
    from gptworks.evaluate.verdicts import Reader
    from gptworks.model import checkpoint
    from gptworks.world import default_device

    reader = Reader.load(checkpoint.resolve(spec))
    reader.model.to(default_device())
    for one, answer in zip(texts, reader.verdicts([(one, pair) for one in texts]), strict=True):
        if json:
            print(jsons.dumps({"text": one} | answer, ensure_ascii=False))
        elif "value" in answer:
            print(f"{answer['value']:.4f}" + (f"\t{one}" if len(texts) > 1 else ""))
        else:
            sure = answer["probabilities"][answer["label"]]
            print(f"{answer['label']}\t{sure:.4f}" + (f"\t{one}" if len(texts) > 1 else ""))


def _of_file(file: Path, column: str | None, spec: str) -> list[str]:
    """The texts of a table's column, or else a file's lines."""
    if column is None and file.suffix.lower() not in TABLES:
        return _lines(file)
    from gptworks.data import columns, tables

    found = []
    for table in tables.read(file):
        trained = _column_of_training(spec)
        found += columns.texts(table, column or (trained if trained in table.columns else None))
    return found


def _column_of_training(spec: str) -> str | None:
    run = Path(runs.split_spec(spec)[0])
    return recipefile.load(run / "recipe.toml").classify.text if runs.is_run(run) else None


def _lines(file: Path) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
        return [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except UnicodeDecodeError as error:
        name = "standard input" if file == STANDARD_INPUT else file
        raise DataError(f"{name} is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
