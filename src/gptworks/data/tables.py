"""Tables from CSV, TSV, JSON, JSONL, Parquet, or a zip of these; recognised by content, not by name.

Tabs, commas, semicolons or bars separate the cells; cells between tabs are read literally, quotes included. A table has
no header (SMS spam's `ham<TAB>text`, CoLA) if a cell of its first row appears again in its column, as labels do and
headings do not. A `.csv` or `.tsv` of one column always begins with its heading.
"""

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptworks.data.json_files import parse_records
from gptworks.errors import DataError
from gptworks.messages import counted

ColumnData = dict[str, list[Any]]


@dataclass(frozen=True)
class Table:
    """Named columns of equal length."""

    name: str
    """The file, and its member if it is a zip; for messages."""
    columns: ColumnData

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def head(self, rows: int) -> "Table":
        """The first rows."""
        return Table(self.name, {name: values[:rows] for name, values in self.columns.items()})


def read(path: Path) -> list[Table]:
    """The table in a file, or every table in a zip.

    Raises:
        DataError: the file does not exist or is not a table; names the line.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    data = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return [_read(str(path), data)]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if _is_table(name)]
        if not names:
            raise DataError(f"{path} is a zip without a table")
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
            f"{name}:{line} is not UTF-8 text, Parquet or a zip; save it as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    columns = _json(name, text) if text.lstrip()[:1] in {"{", "["} else _delimited(name, text)
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{name} has no rows")
    return Table(name, columns)


def _parquet(name: str, data: bytes) -> ColumnData:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{name} is Parquet, which needs pyarrow: pip install 'gptworks[data]'") from None
    try:
        return parquet.read_table(io.BytesIO(data)).to_pydict()
    except (OSError, ValueError) as error:
        raise DataError(f"{name} is not readable as Parquet: {str(error).splitlines()[0]}") from None


def _json(name: str, text: str) -> ColumnData:
    """A JSON list of objects, or one object per line. A missing key becomes None."""
    rows = [record.value for record in parse_records(name, text)]
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def _delimited(name: str, text: str) -> ColumnData:
    first = text.partition("\n")[0]
    if "\t" in first:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        delimiter = max(",;|", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                if len(row) != len(rows[0]):
                    cells = counted(len(row), "cell")
                    raise DataError(
                        f"{name}:{reader.line_num} has {cells}, but the first row has {len(rows[0])}"
                    )
    except csv.Error as error:
        raise DataError(f"cannot read {name}:{reader.line_num}: {error}") from None
    if not rows:
        return {}
    if len(rows[0]) < 2 and not name.lower().endswith((".csv", ".tsv")):
        raise DataError(f"{name} is not a table: its first line has no tab, comma, semicolon or bar")
    names, rows = (_headings(rows[0]), rows[1:]) if _has_header(rows) else (_default_names(rows), rows)
    return {column: [row[index] for row in rows] for index, column in enumerate(names)}


def _has_header(rows: list[list[str]]) -> bool:
    if len(rows[0]) == 1:
        return True
    named = {index: cell for index, cell in enumerate(rows[0]) if cell}
    inner = [index for index in range(1, max(named)) if index not in named]
    # A first column (pandas' index: `,text,label`) and trailing ones (spreadsheets' `v1,v2,,,`) may lack a heading.
    if len(set(named.values())) < len(named) or inner:
        return False
    return not any(row[index] == cell for row in rows[1:] for index, cell in named.items())


def _headings(cells: list[str]) -> list[str]:
    return [cell or f"column_{index}" for index, cell in enumerate(cells)]


def _default_names(rows: list[list[str]]) -> list[str]:
    """`label` and `text` for two columns, where labels repeat more; else column_0, column_1, ..."""
    if len(rows[0]) != 2:
        return [f"column_{index}" for index in range(len(rows[0]))]
    distinct = [len({row[index] for row in rows}) for index in (0, 1)]
    return ["label", "text"] if distinct[0] <= distinct[1] else ["text", "label"]
