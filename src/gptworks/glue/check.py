"""Whether GLUE's server would take a zip: what is wrong with it, file by file and line by line.

Nothing is unpacked. A zip is not to be trusted: entries are read in pieces, none further than a valid file could be
long, and what stands in it is only shown escaped and shortened.
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
from gptworks.glue.tasks import BINARY, HIGHEST, LOWEST, SUBMISSION, Part, Task

MOST = 10
"""Messages about one file, and about entries that are no file of a submission; the rest is counted."""

LARGEST = 64 * 2**20
"""Bytes of a zip. A valid one has a hundredth of that."""

LONGEST = 200
"""Bytes of a line. A valid one has 25 at most."""

HEADER = "index\tprediction"
BOM = b"\xef\xbb\xbf"
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
OTHER_NAMES = {"diagnostic": "AX.tsv", "mnlimatched": "MNLI-m.tsv", "mnlimismatched": "MNLI-mm.tsv"}


def check(path: Path) -> list[str]:
    """What is wrong with a submission, a line each; nothing if it is right.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; give the zip of a submission")
    if path.stat().st_size > LARGEST:
        return [f"the zip has {path.stat().st_size:,} bytes; a submission has about half a million"]
    try:
        with ZipFile(path) as archive:
            return _check(archive)
    except (BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        return [f"{path.name} is no zip that can be read: {error}"]


def _check(archive: ZipFile) -> list[str]:
    about = Messages("")
    entries: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        name, complaint = _whose(info)
        if name in entries:
            complaint = f"{_shown(info.filename)} is a second {name}"
        elif name:
            entries[name] = info
        if complaint:
            about.add(complaint)
    found = about.all()
    for name, (task, part) in SUBMISSION.items():
        if name in entries:
            found += _sheet(archive, entries[name], task, part)
        else:
            found.append(f"{name} is missing")
    return found


def _whose(info: ZipInfo) -> tuple[str | None, str | None]:
    """Which of the eleven files an entry is (None: none), and what is wrong with it as an entry."""
    raw, shown = info.orig_filename, _shown(info.orig_filename)
    parts = re.split(r"[/\\]", raw)
    if raw.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", raw) or "\0" in raw:
        return None, f"{shown} leads out of the zip: leave it out"
    if raw.endswith(("/", "\\")):
        return None, f"{shown} is a folder: put the eleven files themselves into the zip, in no folder"
    if stat.S_ISLNK(info.external_attr >> 16):
        return None, f"{shown} is a link: put the file itself into the zip"
    if raw in SUBMISSION:
        return raw, None
    name = _meant(parts[-1])
    if name is None or "__MACOSX" in parts:
        return None, f"{shown} is no file of a submission: leave it out"
    if len(parts) > 1:
        return name, f"{shown} stands in a folder: {name} must stand at the top of the zip"
    return name, f"{shown} must be called {name}"


def _meant(name: str) -> str | None:
    """cola.tsv -> CoLA.tsv, diagnostic.tsv -> AX.tsv."""
    if not name.lower().endswith(".tsv"):
        return None
    plain = re.sub(r"[^a-z0-9]", "", name.lower()[:-4])
    known = OTHER_NAMES | {re.sub(r"[^a-z0-9]", "", known.lower()[:-4]): known for known in SUBMISSION}
    return known.get(plain)


class UnreadableError(Exception):
    """A file that makes no sense to read on."""


class Messages:
    """What is wrong with one thing: the first few, and how many more."""

    def __init__(self, about: str):
        self.about = about
        self.found: list[str] = []
        self.more = 0
        self.last: list[str] = []

    def add(self, what: str, line: int | None = None) -> None:
        """Of a line counted from 1, the header being the first; of none, of the whole."""
        if len(self.found) >= MOST:
            self.more += 1
            return
        where = f" line {line:,}:" if line else ""
        self.found.append(f"{self.about}{where} {what}".strip())

    def conclude(self, what: str) -> None:
        """Of the whole, and said however much was found before."""
        self.last.append(f"{self.about} {what}")

    def all(self) -> list[str]:
        """The messages."""
        rest = [f"{self.about}: and {self.more:,} more" if self.about else f"and {self.more:,} more entries"]
        return self.found + (rest if self.more else []) + self.last


def _sheet(archive: ZipFile, info: ZipInfo, task: Task, part: Part) -> list[str]:
    """What is wrong with one file."""
    about = Messages(str(part.submission))
    if info.flag_bits & 1:
        about.add("is encrypted: make the zip without a password")
    elif info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        about.add(f"is compressed by method {info.compress_type}: use deflate, as every zip program can")
    else:
        try:
            with archive.open(info) as file, BufferedReader(file) as stream:  # type: ignore[arg-type] # the stubs hide its readinto
                _rows(_lines(stream, about), task, part, about)
        except UnreadableError as error:
            about.conclude(str(error))
        except (BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            about.conclude(f"cannot be read: {_shown(str(error))}")
    return about.all()


def _lines(stream: BufferedReader, about: Messages) -> Iterator[str]:
    """Lines without their ends. What is wrong with ends and encoding is said of the first such line only."""
    said: set[str] = set()

    def once(number: int, what: str) -> None:
        if what not in said:
            said.add(what)
            about.add(what, number)

    number = 0
    while raw := stream.readline(LONGEST):
        number += 1
        if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UnreadableError("is UTF-16: write it as UTF-8")
        if number == 1 and raw.startswith(BOM):
            once(1, "begins with a byte order mark: write UTF-8 without one")
            raw = raw.removeprefix(BOM)
        if len(raw) == LONGEST and not raw.endswith(b"\n"):
            raise UnreadableError(f"line {number:,} does not end: lines end in a newline, and are short")
        if raw.endswith(b"\r\n"):
            once(number, "ends in CR LF, as on Windows: end lines in a newline alone")
            raw = raw[:-2]
        try:
            yield raw.decode("utf-8").rstrip("\n")
        except UnicodeDecodeError:
            once(number, "is not UTF-8")
            yield raw.decode("latin-1").rstrip("\n")


def _rows(lines: Iterator[str], task: Task, part: Part, about: Messages) -> None:
    """Hold every line against the row it must be. After a wrong index, the ones that follow are counted on from it."""
    header, first = next(lines, None), 2
    if header is None:
        raise UnreadableError("is empty")
    if re.match(r"\d+\t", header):
        about.add("is a row: the header, index<TAB>prediction, must stand before it", 1)
        lines, first = chain([header], lines), 1
    elif header != HEADER:
        about.add(f"is {_shown(header)} and must be the header, index<TAB>prediction", 1)
    allowed = frozenset(task.words)
    count = expected = 0
    for number, line in enumerate(lines, start=first):
        count += 1
        if count > 2 * part.rows + 1000:
            raise UnreadableError(f"holds far more than {part.rows:,} rows; the rest was not read")
        index, tab, said = line.partition("\t")
        if not tab or "\t" in said:
            about.add(_not_two(line), number)
        else:
            if index != str(expected):
                about.add(f"the index is {_shown(index)} and must be {expected}", number)
                expected = int(index) if re.fullmatch(r"\d{1,8}", index, re.ASCII) else expected
            if said not in allowed and (wrong := _wrong(said, task)):
                about.add(wrong, number)
        expected += 1
    if count != part.rows:
        about.conclude(f"holds {count:,} rows and must hold {part.rows:,}" + _as_many_as(count))


def _not_two(line: str) -> str:
    """Why a line is not an index, a tab and a prediction."""
    if not line.strip():
        return "is empty"
    if re.fullmatch(r'"?\d+"?\s*[,; ].*', line):
        return f"is {_shown(line)}: a tab must stand between index and prediction"
    return f"is {_shown(line)}: it must be an index, a tab, a prediction"


def _wrong(said: str, task: Task) -> str | None:
    """What is wrong with a prediction that is no word of its task; None if it is a number and one is wanted."""
    plain = said.strip().strip("\"'").strip()
    if task.regression:
        if NUMBER.fullmatch(said):
            within = LOWEST <= float(said) <= HIGHEST
            return None if within else f"{_shown(said)} lies outside {LOWEST:g} to {HIGHEST:g}"
        hint = " without quotes or spaces" if plain != said and NUMBER.fullmatch(plain) else ""
        return f"{_shown(said)} is no number: write one from {LOWEST:g} to {HIGHEST:g}{hint}, such as 3.214"
    means = _meaning(plain, task)
    return f"{_shown(said)} is no label of {task.title}: write " + (means or " or ".join(task.words))


def _meaning(plain: str, task: Task) -> str | None:
    """The word that was probably meant."""
    known = {word.lower(): word for word in task.words} | {
        name.lower(): word for name, word in task.word_of.items()
    }
    if task.words == BINARY:
        known |= {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}
    return known.get(plain.lower())


def _as_many_as(count: int) -> str:
    """Which file has as many rows."""
    other = [name for name, (_, part) in SUBMISSION.items() if part.rows == count]
    return f" (so many has {other[0]})" if other else ""


def _shown(text: str) -> str:
    """Foreign text, safe to print."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")
