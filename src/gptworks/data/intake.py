"""Reads all sources through the worker processes: a chunk file for every work unit, and the progress."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptworks.data import chunk_files
from gptworks.data.encoding import Encoder
from gptworks.data.sources import Source
from gptworks.data.work_units import WorkUnit, split_source, split_stream
from gptworks.data.workers import Workers
from gptworks.errors import DataError

ONE_PROCESS_BYTES = 64 << 20
"""For less text, starting processes takes longer than the work."""

UNPACKED_RATIO = {"jsonl.gz": 4, "jsonl.zst": 4, "parquet": 3}
"""Approximate bytes of text per byte of a compressed file."""


@dataclass
class PrepareProgress:
    """The progress of a `prepare`. Every report passes the same, updated object."""

    stage: str = "reading"
    """reading, then writing."""
    source: str = ""
    fraction: float | None = 0.0
    """Done share of the stage; None if the total is unknown."""
    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    found_bytes: int = 0
    """Text in chunk files that an interrupted `prepare` left."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def megabytes_per_second(self) -> float:
        """Speed of this process and its workers, in megabytes of text."""
        return (self.text_bytes - self.found_bytes) / 1e6 / max(1e-9, self.seconds)


Report = Callable[[PrepareProgress], None]


@dataclass(frozen=True)
class SourceChunks:
    """The chunk files of a source."""

    paths: list[Path]
    invalid: list[str]
    """The first documents that cannot be read, and why."""


def text_size(sources: Sequence[Source]) -> int | None:
    """Approximate size of all text in bytes; None if unknown."""
    if any(source.size is None for source in sources):
        return None
    return sum(file.size * UNPACKED_RATIO.get(file.format, 1) for source in sources for file in source.files)


def n_workers(wanted: int, sources: Sequence[Source]) -> int:
    """The number of processes: `wanted`, or for 0 one per core, but a single one for little text."""
    if wanted:
        return wanted
    size = text_size(sources)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if size is not None and size < ONE_PROCESS_BYTES else cores


@dataclass(frozen=True)
class Intake:
    """Reads sources, each work unit once."""

    sources: Sequence[Source]
    encoder: Encoder
    workers: Workers[WorkUnit, chunk_files.Summary]
    progress: PrepareProgress
    report: Report

    def read(self) -> list[SourceChunks]:
        """All sources, in order.

        Raises:
            DataError: a source cannot be read.
            OSError: a chunk file cannot be written.
        """
        return [_SourceIntake(self, index, source).read() for index, source in enumerate(self.sources)]


class _SourceIntake:
    """Reads one source."""

    def __init__(self, intake: Intake, index: int, source: Source) -> None:
        self.intake, self.index, self.source = intake, index, source
        self.options = intake.encoder.options
        self.summaries: dict[int, chunk_files.Summary] = {}
        """By number of the work unit."""
        self.stopped = False
        sizes = [source.size for source in intake.sources]
        self.read_bytes = sum(size or 0 for size in sizes[:index])
        self.all_bytes = None if None in sizes else max(1, sum(size or 0 for size in sizes))

    def read(self) -> SourceChunks:
        self.intake.progress.source = self.source.name
        try:
            for unit, summary in self.intake.workers.map(self._unfinished()):
                self._account(unit.number, unit.size, summary)
        except DataError:
            # Workers run ahead of `limit`: what lies behind the last document that counts may be unreadable.
            if not self._has_enough():
                raise
        prefix = self._prefix()
        self._check_faults(prefix)
        invalid = [remark for summary in prefix for remark in summary.invalid]
        return SourceChunks([self._path(n) for n in range(len(prefix))], invalid[: chunk_files.REMARKS])

    def _unfinished(self) -> Iterator[WorkUnit]:
        """Work units without a chunk file."""
        for unit in self._units():
            if self._has_enough() or self.stopped:
                return
            path = self._path(unit.number)
            if (summary := chunk_files.inspect(path, self.intake.encoder.dtype)) is not None:
                self._account(unit.number, unit.size, summary, made_before=True)
                continue
            if unit.state is not None:
                chunk_files.write_state(path, unit.state)
            yield unit

    def _units(self) -> Iterator[WorkUnit]:
        if not self.source.hub:
            eos_id = self.intake.encoder.tokenizer.eos_id
            return split_source(self.source, self.index, self.options, eos_id)
        number, state = 0, None
        while (after := chunk_files.read_state(self._path(number))) is not None:
            summary = chunk_files.inspect(self._path(number), self.intake.encoder.dtype)
            if summary is None:
                break
            self._account(number, 0, summary, made_before=True)
            number, state = number + 1, after
        return split_stream(self.source, self.index, self.options, number, state)

    def _path(self, number: int) -> Path:
        return self.intake.encoder.path(self.index, number)

    def _account(
        self, number: int, size: int, summary: chunk_files.Summary, *, made_before: bool = False
    ) -> None:
        progress = self.intake.progress
        self.summaries[number] = summary
        self.stopped |= self._is_stopped(summary)
        self.read_bytes += size
        progress.fraction = None if self.all_bytes is None else min(1.0, self.read_bytes / self.all_bytes)
        progress.documents += summary.documents
        progress.text_bytes += summary.text_bytes
        progress.tokens += summary.tokens
        progress.found_bytes += summary.text_bytes if made_before else 0
        self.intake.report(progress)

    def _has_enough(self) -> bool:
        limit = self.options.limit
        return limit is not None and sum(summary.documents for summary in self._prefix()) >= limit

    def _is_stopped(self, summary: chunk_files.Summary) -> bool:
        """True if the unit ended at a document that cannot be read."""
        return self.options.limit is not None and self.options.on_error == "stop" and bool(summary.invalid)

    def _check_faults(self, prefix: list[chunk_files.Summary]) -> None:
        """Raise the error for a document that cannot be read if it is one of the first `limit`."""
        documents = 0
        for number, summary in enumerate(prefix):
            documents += summary.documents
            if self._is_stopped(summary) and documents <= (self.options.limit or 0):
                self._path(number).unlink()
                raise DataError(summary.invalid[0])

    def _prefix(self) -> list[chunk_files.Summary]:
        """The summaries of all units before the first that is missing."""
        prefix = []
        while (summary := self.summaries.get(len(prefix))) is not None:
            prefix.append(summary)
        return prefix
