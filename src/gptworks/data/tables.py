"""Tables as people have them: CSV, TSV, JSON, JSONL, Parquet, or a zip of one; recognised by content, not by name.

Cells lie between tabs, commas, semicolons or bars; those between tabs are taken as they are, quotes included. A table
without a header (SMS spam's `ham<TAB>text`, CoLA) is known by its first row: one of its cells turns up again in its own
column, as labels do and headings do not. A `.csv` or `.tsv` of one column begins with its heading.
"""

import csv
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptworks.errors import DataError
from gptworks.wording import counted

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Table:
    """Named columns of one length."""

    name: str
    """For messages: the file, and the member of a zip."""
    columns: Columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def head(self, rows: int) -> "Table":
        """Its first rows."""
        return Table(self.name, {name: values[:rows] for name, values in self.columns.items()})


def read(path: Path) -> list[Table]:
    """The table of a file; of a zip, every table in it.

    Raises:
        DataError: no such file, or it cannot be read as a table; with the line.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    data = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return [_read(str(path), data)]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if _is_table(name)]
        if not names:
            raise DataError(f"{path} is a zip without a table in it")
        return [_read(f"{path}/{name}", archive.read(name)) for name in names]


def _is_table(member: str) -> bool:
    base = member.rpartition("/")[2].lower()
    return bool(base) and not base.startswith((".", "readme", "license")) and "__macosx" not in member.lower()


def _read(name: str, data: bytes) -> Table:
    if data.startswith(b"PAR1"):
        return Table(name, _parquet(name, data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}:{line} is not UTF-8 text, Parquet or zip; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    columns = _json(name, text) if text.lstrip()[:1] in {"{", "["} else _delimited(name, text)
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{name} holds no rows")
    return Table(name, columns)


def _parquet(name: str, data: bytes) -> Columns:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{name} is Parquet, which needs pyarrow: pip install 'gptworks[data]'") from None
    try:
        return parquet.read_table(io.BytesIO(data)).to_pydict()
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _json(name: str, text: str) -> Columns:
    """Records: a JSON list of objects, or an object a line. A key that a record lacks is None there."""
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except _BadLineError as error:
        raise DataError(f"{name}:{error.line} is not JSON: {error}") from None
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name} is not a list of JSON objects")
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {key: [row.get(key) for row in rows] for key in names}


class _BadLineError(ValueError):
    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def _lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise _BadLineError(number, str(error)) from None
    return rows


def _delimited(name: str, text: str) -> Columns:
    first = text.partition("\n")[0]
    if "\t" in first:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        by = max(",;|", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=by, strict=True)
    rows = []
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                if len(row) != len(rows[0]):
                    raise DataError(
                        f"{name}:{reader.line_num} has {counted(len(row), 'cell')}, the first row has {len(rows[0])}"
                    )
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num} cannot be read: {error}") from None
    if not rows:
        return {}
    if len(rows[0]) < 2 and not name.lower().endswith((".csv", ".tsv")):
        raise DataError(f"{name} is no table: its first line has no tab, comma, semicolon or bar")
    names, rows = (_headings(rows[0]), rows[1:]) if _has_header(rows) else (_invented(rows), rows)
    return {column: [row[index] for row in rows] for index, column in enumerate(names)}


def _has_header(rows: list[list[str]]) -> bool:
    if len(rows[0]) == 1:
        return True
    named = {index: cell for index, cell in enumerate(rows[0]) if cell}
    inner = [index for index in range(1, max(named)) if index not in named]
    # No heading has an index (`,text,label`, as pandas writes), nor what follows the last (`v1,v2,,,` of spreadsheets).
    if len(set(named.values())) < len(named) or inner:
        return False
    return not any(row[index] == cell for row in rows[1:] for index, cell in named.items())


def _headings(cells: list[str]) -> list[str]:
    return [cell or f"column_{index}" for index, cell in enumerate(cells)]


def _invented(rows: list[list[str]]) -> list[str]:
    """`label` and `text` for two columns, of which labels repeat more; else column_0, column_1, ..."""
    if len(rows[0]) != 2:
        return [f"column_{index}" for index in range(len(rows[0]))]
    kinds = [len({row[index] for row in rows}) for index in (0, 1)]
    return ["label", "text"] if kinds[0] <= kinds[1] else ["text", "label"]
