"""A piece's way through a worker: documents, filters, token ids, and a part on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gptworks.data import parts
from gptworks.data.cuts import SEGMENT_CHARS, segments
from gptworks.data.filters import judge
from gptworks.data.pieces import Piece
from gptworks.data.readings import TokenRange
from gptworks.data.records import FAULTS, Document, Fate, Keys, refuse
from gptworks.data.shards import dtype_for, narrow
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

BATCH_CHARS = 8 << 20
"""How much text is encoded at once."""

COUNT_TOKENS = 1 << 20
"""How many tokens are looked at at once where a document may have any number."""


@dataclass(frozen=True)
class Encoder:
    """All that turns a piece into a part; travels to each worker once."""

    options: PrepareOptions
    tokenizer: Tokenizer
    folder: Path
    """Where parts go."""

    @property
    def dtype(self) -> np.dtype:
        return dtype_for(self.tokenizer.vocab_size)

    @cached_property
    def marks(self) -> tuple[list[int], list[int]]:
        """Ids that go before and after each document."""
        eos, bos = self.tokenizer.eos_id, self.tokenizer.bos_id
        before, after = {
            "eos-after": ([], [eos]),
            "eos-before": ([eos], []),
            "bos-eos": ([bos], [eos]),
            "none": ([], []),
        }[self.options.marks]
        assert None not in (*before, *after)  # prepare has looked
        return before, after

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) length of each token in bytes."""
        return byte_lengths(self.tokenizer)

    def path(self, piece: Piece) -> Path:
        """Where the part of a piece is or will be."""
        return part_path(self.folder, piece.source, piece.number)

    def __call__(self, piece: Piece) -> parts.Summary:
        """Do one piece.

        Raises:
            DataError: a document cannot be read and `on_error` says stop.
            OSError: the part cannot be written.
        """
        part = _Part(self, piece)
        if isinstance(piece.reading, TokenRange):
            for ids in piece.reading.tokens(self.tokenizer.eos_id):
                part.add_ids(ids)
        else:
            for batch in _batches(piece.reading.documents(Keys.of(self.options))):
                part.add(batch)
                if part.stopped:
                    break
        return parts.write(self.path(piece), part.table(), part.tokens, tuple(part.invalid))


def part_path(folder: Path, source: int, number: int) -> Path:
    """The name of a part."""
    return folder / f"{source:03d}-{number:07d}.part"


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) length of each token in bytes."""
    lengths = np.zeros(tokenizer.vocab_size, np.int64)
    for number in range(len(lengths)):
        with suppress(ValueError):  # ids need not be without gaps
            lengths[number] = len(tokenizer.token_bytes(number))
    return lengths


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    held: list[Document] = []
    chars = 0
    for document in documents:
        held.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS:
            yield held
            held, chars = [], 0
    if held:
        yield held


class _Part:
    """A part in the making."""

    def __init__(self, encoder: Encoder, piece: Piece) -> None:
        self.encoder, self.piece = encoder, piece
        self.options = encoder.options
        self.rows: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.invalid: list[str] = []
        self.stopped = False
        """True after a document that cannot be read, which is the last one then."""
        before, after = encoder.marks
        self.before = np.array([] if piece.continues else before, encoder.dtype)
        self.after = np.array([] if piece.goes_on else after, encoder.dtype)

    def table(self) -> np.ndarray:
        """All rows."""
        return np.concatenate(self.rows) if self.rows else np.zeros(0, parts.ROW)

    def add(self, documents: list[Document]) -> None:
        """Filter and encode some texts."""
        kept: list[str] = []
        columns: list[tuple[bytes, int, int, int]] = []
        for document in documents:
            text, fate, was_cut = self._judge(document)
            data = document.text.encode()
            stays = 0
            if fate is Fate.KEPT:
                kept.append(text)
                stays = len(text.encode()) if was_cut else len(data)
            columns.append(
                (hashlib.sha256(data).digest()[:16], stays, fate, parts.CUT_WORDS if was_cut else 0)
            )
        digests, sizes, fates, flags = zip(*columns, strict=True)
        rows = np.zeros(len(columns), parts.ROW)
        rows["digest"] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        rows["bytes"], rows["fate"], rows["flags"] = sizes, fates, flags
        if self.piece.continues:
            rows["flags"][0] |= parts.CONTINUES
        self.rows.append(rows)
        if kept:
            self._append(rows, np.flatnonzero(rows["fate"] == Fate.KEPT), self._encode(kept))

    def add_ids(self, ids: np.ndarray) -> None:
        """Take over a document that is tokens already."""
        rows = np.zeros(1, parts.ROW)
        n_bytes, content = 0, hashlib.sha256()
        for start in range(0, len(ids), COUNT_TOKENS):
            place = self.piece.reading.place(Document("", line=len(self.rows) + 1))
            some = narrow(
                ids[start : start + COUNT_TOKENS], np.dtype("<u4"), len(self.encoder.token_bytes), place
            )
            content.update(some.tobytes())
            n_bytes += int(self.encoder.token_bytes[some].sum())
        rows[0] = (np.frombuffer(content.digest()[:16], "<u8"), 0, n_bytes, Fate.KEPT, 0)
        self.rows.append(rows)
        self._append(rows, np.zeros(1, np.int64), [ids.astype(self.encoder.dtype, copy=False)])

    def _judge(self, document: Document) -> tuple[str, Fate, bool]:
        text, fate, was_cut = judge(document, self.options)
        if fate in FAULTS:
            place = self.piece.reading.place(document) if len(self.invalid) < parts.REMARKS else ""
            error = refuse(document, place)
            if self.options.on_error == "stop" and self.options.limit is None:
                raise error
            if self.options.on_error == "stop":  # unless `limit` comes first, which only the parent can tell
                self.stopped = True
                self.invalid.append(str(error))
            elif place:
                self.invalid.append(f"{place}: {document.fault}")
        return text, fate, was_cut

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        tokenizer = self.encoder.tokenizer
        if self.options.special_text:
            names = list(tokenizer.special_tokens)
            return [
                np.concatenate(
                    [np.array(tokenizer.encode(s, specials=True), np.uint32) for s in segments(text, names)]
                )
                for text in texts
            ]
        if all(len(text) <= SEGMENT_CHARS for text in texts):
            return list(tokenizer.encode_batch(texts))
        dtype = self.encoder.dtype
        return [
            np.concatenate([tokenizer.encode_batch([s])[0].astype(dtype) for s in segments(text)])
            for text in texts
        ]

    def _append(self, rows: np.ndarray, kept: np.ndarray, encoded: Sequence[np.ndarray]) -> None:
        """Cut to max_tokens, put marks around, and note the lengths in the rows that were `kept`."""
        limit = self.options.max_tokens
        if limit is not None:
            for row, number in zip(kept.tolist(), range(len(encoded)), strict=True):
                if len(encoded[number]) > limit:
                    encoded = list(encoded)
                    encoded[number] = encoded[number][:limit]
                    rows["flags"][row] |= parts.CUT_TOKENS
                    rows["bytes"][row] = self.encoder.token_bytes[encoded[number]].sum()
        marks = len(self.before) + len(self.after)
        rows["tokens"][kept] = [len(ids) + marks for ids in encoded]
        ids = np.concatenate([piece for text in encoded for piece in (self.before, text, self.after)])
        self.tokens.append(narrow(ids, self.encoder.dtype, self.encoder.tokenizer.vocab_size, "the text"))
