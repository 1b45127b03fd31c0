"""Check whether GLUE's server would accept a zip, file by file and line by line.

The zip is not trusted: nothing is unpacked, entries are read in pieces and no further than a valid file could be long,
and foreign text is only shown escaped and shortened.
"""

import re
import stat
import zlib
from collections.abc import Iterator
from io import BufferedReader
from itertools import chain
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from gptworks.errors import DataError
from gptworks.glue.tasks import BINARY, HIGHEST, LOWEST, SUBMISSION, GlueTask, Part

MAX_PROBLEMS = 10
"""Problems listed for one file, and for unexpected entries; more are only counted."""

MAX_ZIP_BYTES = 64 * 2**20
"""Largest zip to open, in bytes; a valid one has a hundredth of that."""

MAX_LINE_BYTES = 200
"""Longest line to read, in bytes; a valid one has at most 25."""

HEADER = "index\tprediction"
BOM = b"\xef\xbb\xbf"
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
OTHER_NAMES = {"diagnostic": "AX.tsv", "mnlimatched": "MNLI-m.tsv", "mnlimismatched": "MNLI-mm.tsv"}


def check(path: Path) -> list[str]:
    """The problems of a submission, one per line; empty if it is valid.

    Raises:
        DataError: the file does not exist.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the zip of a submission")
    if path.stat().st_size > MAX_ZIP_BYTES:
        return [f"the zip has {path.stat().st_size:,} bytes; a submission has about half a million"]
    try:
        with ZipFile(path) as archive:
            return _check_archive(archive)
    except (BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        return [f"{path.name} is not a readable zip: {error}"]


def _check_archive(archive: ZipFile) -> list[str]:
    problems = Problems("")
    entries: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name, problem = _identify(info)
        if name in entries:
            problem = f"{_printable(info.filename)} is a second {name}"
        elif name:
            entries[name] = info
        if problem:
            problems.add(problem)
    lines = problems.lines()
    for name, (task, part) in SUBMISSION.items():
        lines += (
            _check_file(archive, entries[name], task, part) if name in entries else [f"{name} is missing"]
        )
    return lines


def _identify(info: ZipInfo) -> tuple[str | None, str | None]:
    """The submission file that an entry is meant to be (None: none), and the problem with its name or kind."""
    raw, shown = info.orig_filename, _printable(info.orig_filename)
    parts = re.split(r"[/\\]", raw)
    if raw.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", raw) or "\0" in raw:
        return None, f"{shown} points outside the zip: remove it"
    if raw.endswith(("/", "\\")):
        return None, f"{shown} is a folder: put the eleven files at the top of the zip, not in a folder"
    if stat.S_ISLNK(info.external_attr >> 16):
        return None, f"{shown} is a link: put the file itself into the zip"
    if raw in SUBMISSION:
        return raw, None
    name = _intended_name(parts[-1])
    if name is None or "__MACOSX" in parts:
        return None, f"{shown} does not belong in a submission: remove it"
    if len(parts) > 1:
        return name, f"{shown} is in a folder: put {name} at the top of the zip"
    return name, f"{shown} must be named {name}"


def _intended_name(name: str) -> str | None:
    """cola.tsv -> CoLA.tsv, diagnostic.tsv -> AX.tsv."""
    if not name.lower().endswith(".tsv"):
        return None
    plain = re.sub(r"[^a-z0-9]", "", name.lower()[:-4])
    known = OTHER_NAMES | {re.sub(r"[^a-z0-9]", "", known.lower()[:-4]): known for known in SUBMISSION}
    return known.get(plain)


class UnreadableError(Exception):
    """A file that is not worth reading any further."""


class Problems:
    """The problems of one file, or of the zip's entries: the first few, and the number of the rest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listed: list[str] = []
        self.more = 0
        self.final: list[str] = []

    def add(self, problem: str, line: int | None = None) -> None:
        """Add a problem of a line, counted from 1 with the header first; without a line, of the whole file."""
        if len(self.listed) >= MAX_PROBLEMS:
            self.more += 1
            return
        where = f" line {line:,}:" if line else ""
        self.listed.append(f"{self.name}{where} {problem}".strip())

    def add_final(self, problem: str) -> None:
        """Add a problem of the whole file that is listed however many there are."""
        self.final.append(f"{self.name} {problem}")

    def lines(self) -> list[str]:
        """The problems, one per line."""
        rest = f"{self.name}: and {self.more:,} more" if self.name else f"and {self.more:,} more entries"
        return self.listed + ([rest] if self.more else []) + self.final


def _check_file(archive: ZipFile, info: ZipInfo, task: GlueTask, part: Part) -> list[str]:
    problems = Problems(str(part.submission))
    if info.flag_bits & 1:
        problems.add("is encrypted: create the zip without a password")
    elif info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        problems.add(
            f"is compressed with method {info.compress_type}: use deflate, the default of zip programs"
        )
    else:
        try:
            with archive.open(info) as file, BufferedReader(file) as stream:  # type: ignore[arg-type] # the stubs hide its readinto
                _check_rows(_lines(stream, problems), task, part, problems)
        except UnreadableError as error:
            problems.add_final(str(error))
        except (BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            problems.add_final(f"cannot be read: {_printable(str(error))}")
    return problems.lines()


def _lines(stream: BufferedReader, problems: Problems) -> Iterator[str]:
    """The lines without their ends. Problems with line ends and encoding are reported once per file."""
    reported: set[str] = set()

    def report_once(number: int, problem: str) -> None:
        if problem not in reported:
            reported.add(problem)
            problems.add(problem, number)

    number = 0
    while raw := stream.readline(MAX_LINE_BYTES):
        number += 1
        if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnreadableError("is UTF-16: write it as UTF-8")
        if number == 1 and raw.startswith(BOM):
            report_once(1, "starts with a byte order mark: write UTF-8 without one")
            raw = raw.removeprefix(BOM)
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raise UnreadableError(f"line {number:,} is too long: end each line with a newline")
        if raw.endswith(b"\r\n"):
            report_once(number, "ends in CR LF, as on Windows: end lines with a newline only")
            raw = raw[:-2]
        try:
            yield raw.decode("utf-8").rstrip("\n")
        except UnicodeDecodeError:
            report_once(number, "is not UTF-8")
            yield raw.decode("latin-1").rstrip("\n")


def _check_rows(lines: Iterator[str], task: GlueTask, part: Part, problems: Problems) -> None:
    """Compare each line with the row it should be. After a wrong index, counting continues from that index."""
    header, first = next(lines, None), 2
    if header is None:
        raise UnreadableError("is empty")
    if re.match(r"\d+\t", header):
        problems.add("is a row: the header, index<TAB>prediction, is missing", 1)
        lines, first = chain([header], lines), 1
    elif header != HEADER:
        problems.add(f"is {_printable(header)}: the header must be index<TAB>prediction", 1)
    allowed = frozenset(task.words)
    count = expected = 0
    for number, line in enumerate(lines, start=first):
        count += 1
        if count > 2 * part.rows + 1000:
            raise UnreadableError(f"holds far more than {part.rows:,} rows; the rest was not read")
        index, tab, prediction = line.partition("\t")
        if not tab or "\t" in prediction:
            problems.add(_column_problem(line), number)
        else:
            if index != str(expected):
                problems.add(f"the index is {_printable(index)}, not {expected}", number)
                expected = int(index) if re.fullmatch(r"\d{1,8}", index, re.ASCII) else expected
            if prediction not in allowed and (problem := _prediction_problem(prediction, task)):
                problems.add(problem, number)
        expected += 1
    if count != part.rows:
        same = [name for name, (_, other) in SUBMISSION.items() if other.rows == count]
        hint = f" (as many as {same[0]})" if same else ""
        problems.add_final(f"holds {count:,} rows instead of {part.rows:,}{hint}")


def _column_problem(line: str) -> str:
    """The reason why a line is not an index, a tab and a prediction."""
    if not line.strip():
        return "is empty"
    if re.fullmatch(r'"?\d+"?\s*[,; ].*', line):
        return f"is {_printable(line)}: separate index and prediction by a tab"
    return f"is {_printable(line)}: write an index, a tab and a prediction"


def _prediction_problem(prediction: str, task: GlueTask) -> str | None:
    """The problem with a prediction that is not one of the task's words; None for a valid number in a regression."""
    plain = prediction.strip().strip("\"'").strip()
    if task.regression:
        if NUMBER.fullmatch(prediction):
            valid = LOWEST <= float(prediction) <= HIGHEST
            return None if valid else f"{_printable(prediction)} is outside {LOWEST:g} to {HIGHEST:g}"
        hint = " without quotes or spaces" if plain != prediction and NUMBER.fullmatch(plain) else ""
        example = f"write one from {LOWEST:g} to {HIGHEST:g}{hint}, such as 3.214"
        return f"{_printable(prediction)} is not a number: {example}"
    intended = _intended_word(plain, task)
    return f"{_printable(prediction)} is not a label of {task.title}: write " + (
        intended or " or ".join(task.words)
    )


def _intended_word(plain: str, task: GlueTask) -> str | None:
    known = {word.lower(): word for word in task.words}
    known |= {name.lower(): word for name, word in task.word_of.items()}
    if task.words == BINARY:
        known |= {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}
    return known.get(plain.lower())


def _printable(text: str) -> str:
    """Foreign text, safe to print."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")
