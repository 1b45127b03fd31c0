"""All sources through the workers: a part for every piece, and how far it is."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptworks.data import parts
from gptworks.data.encoding import Encoder, part_path
from gptworks.data.pieces import Piece, cut, cut_stream
from gptworks.data.sources import Source
from gptworks.data.workers import Workers
from gptworks.errors import DataError

ALONE_BYTES = 64 << 20
"""Text below which starting processes takes longer than the work."""

UNPACKED = {"jsonl.gz": 4, "jsonl.zst": 4, "parquet": 3}
"""About how much text is in a byte of a file, where it is not one."""


@dataclass
class Progress:
    """How far a `prepare` is; the same object is handed out again and again."""

    stage: str = "reading"
    """reading, then writing."""
    source: str = ""
    fraction: float | None = 0.0
    """Of the stage; None if nobody knows how much there is."""
    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    found_bytes: int = 0
    """Text whose parts were there already, from a `prepare` that was interrupted."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def megabytes_per_second(self) -> float:
        """Text read by this process and its workers."""
        return (self.text_bytes - self.found_bytes) / 1e6 / max(1e-9, self.seconds)


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Taken:
    """What came of a source."""

    paths: list[Path]
    """Its parts, in order."""
    invalid: list[str]
    """The first of its documents that could not be read, and why."""


def text_size(sources: Sequence[Source]) -> int | None:
    """About how much text there is, in bytes; None if nobody knows."""
    if any(source.size is None for source in sources):
        return None
    return sum(file.size * UNPACKED.get(file.format, 1) for source in sources for file in source.files)


def n_workers(wanted: int, sources: Sequence[Source]) -> int:
    """How many processes to use: those wanted; for 0, one per core, or this one alone for little text."""
    if wanted:
        return wanted
    size = text_size(sources)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size is not None and size < ALONE_BYTES else cores


@dataclass(frozen=True)
class Intake:
    """Reads sources, each piece once."""

    sources: Sequence[Source]
    encoder: Encoder
    workers: Workers[Piece, parts.Summary]
    progress: Progress
    report: Report

    def read(self) -> list[Taken]:
        """All sources, in order.

        Raises:
            DataError: something cannot be read.
            OSError: a part cannot be written.
        """
        return [_Reader(self, index, source).read() for index, source in enumerate(self.sources)]


class _Reader:
    """Reads one source."""

    def __init__(self, intake: Intake, index: int, source: Source) -> None:
        self.intake, self.index, self.source = intake, index, source
        self.options = intake.encoder.options
        self.found: dict[int, parts.Summary] = {}
        """By number of the piece."""
        self.stopped = False
        sizes = [source.size for source in intake.sources]
        self.read_bytes = sum(size or 0 for size in sizes[:index])
        self.all_bytes = None if None in sizes else max(1, sum(size or 0 for size in sizes))

    def read(self) -> Taken:
        self.intake.progress.source = self.source.name
        try:
            for piece, summary in self.intake.workers.map(self._todo()):
                self._account(piece.number, piece.size, summary)
        except DataError:
            # Workers are ahead of `limit`: what lies behind the last document that counts may be unreadable.
            if not self._enough():
                raise
        prefix = self._prefix()
        self._refuse(prefix)
        remarks = [remark for summary in prefix for remark in summary.invalid]
        return Taken([self._path(number) for number in range(len(prefix))], remarks[: parts.REMARKS])

    def _todo(self) -> Iterator[Piece]:
        """Pieces without a part."""
        for piece in self._pieces():
            if self._enough() or self.stopped:
                return
            if (summary := parts.inspect(self._path(piece.number), self.intake.encoder.dtype)) is not None:
                self._account(piece.number, piece.size, summary, made_before=True)
                continue
            if piece.state is not None:
                parts.write_state(self._path(piece.number), piece.state)
            yield piece

    def _pieces(self) -> Iterator[Piece]:
        if not self.source.hub:
            return cut(self.source, self.index, self.options, self.intake.encoder.tokenizer.eos_id)
        number, state = 0, None
        while (after := parts.read_state(self._path(number))) is not None:
            summary = parts.inspect(self._path(number), self.intake.encoder.dtype)
            if summary is None:
                break
            self._account(number, 0, summary, made_before=True)
            number, state = number + 1, after
        return cut_stream(self.source, self.index, self.options, number, state)

    def _path(self, number: int) -> Path:
        return part_path(self.intake.encoder.folder, self.index, number)

    def _account(self, number: int, size: int, summary: parts.Summary, *, made_before: bool = False) -> None:
        progress = self.intake.progress
        self.found[number] = summary
        self.stopped |= self._stopped(summary)
        self.read_bytes += size
        progress.fraction = None if self.all_bytes is None else min(1.0, self.read_bytes / self.all_bytes)
        progress.documents += summary.documents
        progress.text_bytes += summary.text_bytes
        progress.tokens += summary.tokens
        progress.found_bytes += summary.text_bytes if made_before else 0
        self.intake.report(progress)

    def _enough(self) -> bool:
        limit = self.options.limit
        return limit is not None and sum(summary.documents for summary in self._prefix()) >= limit

    def _stopped(self, summary: parts.Summary) -> bool:
        """True if the last document of a part cannot be read, and that matters."""
        return self.options.limit is not None and self.options.on_error == "stop" and bool(summary.invalid)

    def _refuse(self, prefix: list[parts.Summary]) -> None:
        """Stop for a document that cannot be read, if it is one of the first `limit`."""
        documents = 0
        for number, summary in enumerate(prefix):
            documents += summary.documents
            if self._stopped(summary) and documents <= (self.options.limit or 0):
                self._path(number).unlink()
                raise DataError(summary.invalid[0])

    def _prefix(self) -> list[parts.Summary]:
        """The summaries of all pieces up to the first that is missing."""
        prefix = []
        while (summary := self.found.get(len(prefix))) is not None:
            prefix.append(summary)
        return prefix
