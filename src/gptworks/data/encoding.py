"""What a worker does with a work unit: read documents, filter them, encode them, write a chunk file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gptworks.data import chunk_files
from gptworks.data.documents import (
    FAULTS,
    SEGMENT_CHARS,
    Document,
    Keys,
    Outcome,
    apply_filters,
    batched,
    fault_error,
    segments,
)
from gptworks.data.readers import TokenRange
from gptworks.data.shards import cast_ids, dtype_for
from gptworks.data.work_units import WorkUnit
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

BATCH_CHARS = 8 << 20
"""Text encoded at a time."""

BLOCK_TOKENS = 1 << 20
"""Tokens checked at a time: a tokenized document may have any number."""


@dataclass(frozen=True)
class Encoder:
    """Turns a work unit into a chunk file; each worker receives one once."""

    options: PrepareOptions
    tokenizer: Tokenizer
    folder: Path
    """Where chunk files go."""

    @property
    def dtype(self) -> np.dtype:
        return dtype_for(self.tokenizer.vocab_size)

    @cached_property
    def separators(self) -> tuple[list[int], list[int]]:
        """Ids that go before and after each document."""
        eos, bos = self.tokenizer.eos_id, self.tokenizer.bos_id
        before, after = {
            "eos-after": ([], [eos]),
            "eos-before": ([eos], []),
            "bos-eos": ([bos], [eos]),
            "none": ([], []),
        }[self.options.separator]
        assert None not in (*before, *after)  # checks.check_options has checked it
        return before, after

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) length of each token in bytes."""
        return self.tokenizer.byte_lengths()

    def path(self, source: int, number: int) -> Path:
        """The chunk file of a source's work unit."""
        return self.folder / f"{source:03d}-{number:07d}.part"

    def __call__(self, unit: WorkUnit) -> chunk_files.Summary:
        """Encode one work unit.

        Raises:
            DataError: a document cannot be read and `on_error` is stop.
            OSError: the chunk file cannot be written.
        """
        chunk = _Chunk(self, unit)
        if isinstance(unit.reader, TokenRange):
            for ids in unit.reader.tokens(self.tokenizer.eos_id):
                chunk.add_ids(ids)
        else:
            for batch in batched(unit.reader.documents(Keys.of(self.options)), BATCH_CHARS):
                chunk.add(batch)
                if chunk.stopped:
                    break
        rows = np.concatenate(chunk.rows) if chunk.rows else np.zeros(0, chunk_files.ROW)
        path = self.path(unit.source, unit.number)
        return chunk_files.write(path, rows, chunk.tokens, tuple(chunk.invalid))


class _Chunk:
    """The content of a chunk file while it is built."""

    def __init__(self, encoder: Encoder, unit: WorkUnit) -> None:
        self.encoder, self.unit = encoder, unit
        self.options = encoder.options
        self.rows: list[np.ndarray] = []
        self.tokens: list[np.ndarray] = []
        self.invalid: list[str] = []
        self.stopped = False
        """True after a document that cannot be read; it is then the last one."""
        before, after = encoder.separators
        self.before = np.array([] if unit.starts_inside else before, encoder.dtype)
        self.after = np.array([] if unit.ends_inside else after, encoder.dtype)

    def add(self, documents: list[Document]) -> None:
        """Filter and encode some texts."""
        kept: list[str] = []
        columns: list[tuple[bytes, int, int, int]] = []
        for document in documents:
            text, outcome, was_cut = self._filter(document)
            data = document.text.encode()
            n_bytes = 0
            if outcome is Outcome.KEPT:
                kept.append(text)
                n_bytes = len(text.encode()) if was_cut else len(data)
            flag = chunk_files.CUT_WORDS if was_cut else 0
            columns.append((hashlib.sha256(data).digest()[:16], n_bytes, outcome, flag))
        digests, sizes, outcomes, flags = zip(*columns, strict=True)
        rows = np.zeros(len(columns), chunk_files.ROW)
        rows["digest"] = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
        rows["bytes"], rows["outcome"], rows["flags"] = sizes, outcomes, flags
        if self.unit.starts_inside:
            rows["flags"][0] |= chunk_files.CONTINUES
        self.rows.append(rows)
        if kept:
            self._append(rows, np.flatnonzero(rows["outcome"] == Outcome.KEPT), self._encode(kept))

    def add_ids(self, ids: np.ndarray) -> None:
        """Add a document that is already tokenized."""
        rows = np.zeros(1, chunk_files.ROW)
        n_bytes, content = 0, hashlib.sha256()
        for start in range(0, len(ids), BLOCK_TOKENS):
            place = self.unit.reader.place(Document("", line=len(self.rows) + 1))
            block = ids[start : start + BLOCK_TOKENS]
            block = cast_ids(block, np.dtype("<u4"), len(self.encoder.token_bytes), place)
            content.update(block.tobytes())
            n_bytes += int(self.encoder.token_bytes[block].sum())
        rows[0] = (np.frombuffer(content.digest()[:16], "<u8"), 0, n_bytes, Outcome.KEPT, 0)
        self.rows.append(rows)
        self._append(rows, np.zeros(1, np.int64), [ids.astype(self.encoder.dtype, copy=False)])

    def _filter(self, document: Document) -> tuple[str, Outcome, bool]:
        """The result of `apply_filters`; a document that cannot be read is noted or ends the unit."""
        text, outcome, was_cut = apply_filters(document, self.options)
        if outcome in FAULTS:
            place = self.unit.reader.place(document) if len(self.invalid) < chunk_files.REMARKS else ""
            error = fault_error(document, place)
            if self.options.on_error == "stop" and self.options.limit is None:
                raise error
            if self.options.on_error == "stop":  # only the parent knows whether `limit` comes first
                self.stopped = True
                self.invalid.append(str(error))
            elif place:
                self.invalid.append(f"{place}: {document.fault}")
        return text, outcome, was_cut

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        tokenizer, dtype = self.encoder.tokenizer, self.encoder.dtype
        if self.options.parse_special:
            names = list(tokenizer.special_tokens)
            return [
                np.concatenate(
                    [np.array(tokenizer.encode(s, specials=True), np.uint32) for s in segments(text, names)]
                )
                for text in texts
            ]
        if all(len(text) <= SEGMENT_CHARS for text in texts):
            return list(tokenizer.encode_batch(texts))
        return [
            np.concatenate([tokenizer.encode_batch([s])[0].astype(dtype) for s in segments(text)])
            for text in texts
        ]

    def _append(self, rows: np.ndarray, kept: np.ndarray, encoded: Sequence[np.ndarray]) -> None:
        """Cut to max_tokens, add the separators, and store the lengths in the `kept` rows."""
        limit = self.options.max_tokens
        if limit is not None:
            for row, number in zip(kept.tolist(), range(len(encoded)), strict=True):
                if len(encoded[number]) > limit:
                    encoded = list(encoded)
                    encoded[number] = encoded[number][:limit]
                    rows["flags"][row] |= chunk_files.CUT_TOKENS
                    rows["bytes"][row] = self.encoder.token_bytes[encoded[number]].sum()
        n_separators = len(self.before) + len(self.after)
        rows["tokens"][kept] = [len(ids) + n_separators for ids in encoded]
        ids = np.concatenate([array for text in encoded for array in (self.before, text, self.after)])
        self.tokens.append(cast_ids(ids, self.encoder.dtype, self.encoder.tokenizer.vocab_size, "the text"))
