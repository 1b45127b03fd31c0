"""Decides what becomes of each document once all are known: limits, repeats, weights, and the validation split.

Every decision uses only the rows of the chunk files, in the order of the sources. So the result does not depend on
which process encoded what or when, and no text or token is held in memory.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gptworks.data import chunk_files
from gptworks.data.chunk_files import CONTINUES, CUT_TOKENS, CUT_WORDS
from gptworks.data.documents import Outcome
from gptworks.data.sources import Source
from gptworks.recipe import PrepareOptions

DEDUP_DIGESTS = 4 << 20
"""Content hashes compared at a time; more documents take more passes, not more memory."""


@dataclass(frozen=True)
class Group:
    """A chunk file and its documents, or the chunk files with the fragments of one document."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    """Tokens in each file."""
    documents: np.ndarray
    """Rows (chunk_files.ROW), one per document."""


@dataclass(frozen=True)
class Selected:
    """What the Dataset takes from a group."""

    group: Group
    copies: np.ndarray
    """How often each document is taken."""
    validation: np.ndarray
    """True where a document goes to validation; it is then taken once."""
    cut: int | None = None
    """The source's only document goes to training up to this token, and to validation from there."""


@dataclass
class SourceCounts:
    """What happened to a source's documents."""

    documents: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)

    def count(self, selected: Selected) -> None:
        rows, taken = selected.group.documents, selected.copies > 0
        self.documents += len(rows)
        self.kept += int(taken.sum())
        for outcome in Outcome:
            if outcome is not Outcome.KEPT:
                _add(self.dropped, outcome.name.lower(), rows["outcome"] == outcome)
        _add(self.cut, "words", taken & (rows["flags"] & CUT_WORDS != 0))
        _add(self.cut, "tokens", taken & (rows["flags"] & CUT_TOKENS != 0))


def _add(counts: dict[str, int], name: str, mask: np.ndarray) -> None:
    if n := int(mask.sum()):
        counts[name] = counts.get(name, 0) + n


class Selection:
    """Decides for all sources; `chunks` holds the chunk files of each."""

    def __init__(
        self, sources: Sequence[Source], chunks: Sequence[Sequence[Path]], options: PrepareOptions
    ) -> None:
        self.sources, self.chunks, self.options = sources, chunks, options
        self.first = [0]
        """Number of each source's first document among all."""
        for paths in chunks:
            self.first.append(self.first[-1] + sum(len(g.documents) for g in groups(paths, options.limit)))
        self.repeats = self._find_repeats() if options.dedup else None

    def select(self, source: int) -> Iterator[Selected]:
        """What is taken from a source, in order."""
        options = self.options
        total = sum(int((selected.copies > 0).sum()) for selected in self._taken(source))
        by_source = options.val_split_by == "source"
        held_out = 0 if by_source else tail(total, options.val_fraction)
        seen = 0
        for selected in self._taken(source):
            taken = selected.copies > 0
            if by_source:
                validation = taken & self.sources[source].validation
            elif total == 1:
                yield replace(selected, cut=self._cut(selected.group, taken))
                continue
            elif options.val_split_by == "tail":
                validation = taken & (seen + np.cumsum(taken) > total - held_out)
            else:
                validation = taken & below(selected.group.documents["digest"][:, 0], options.val_fraction)
            seen += int(taken.sum())
            yield replace(selected, validation=validation)

    def _cut(self, group: Group, taken: np.ndarray) -> int | None:
        """The token at which validation begins in a source's only document."""
        if not self.options.val_fraction or not taken.any():
            return None
        n_tokens = int(group.documents["tokens"][taken][0])
        return n_tokens - tail(n_tokens, self.options.val_fraction) if n_tokens > 1 else None

    def _taken(self, source: int) -> Iterator[Selected]:
        """The documents that weights and dedup leave, with their final outcomes."""
        weight = self.sources[source].weight
        first = self.first[source]
        for group in groups(self.chunks[source], self.options.limit):
            rows = group.documents.copy()
            if self.repeats is not None:
                rows["outcome"][self.repeats[first : first + len(rows)]] = Outcome.DUPLICATE
            first += len(rows)
            copies = int(weight) + below(rows["digest"][:, 1], weight % 1).astype(np.int64)
            kept = rows["outcome"] == Outcome.KEPT
            rows["outcome"][kept & (copies == 0)] = Outcome.WEIGHT
            copies[~kept] = 0
            yield Selected(Group(group.paths, group.lengths, rows), copies, np.zeros(len(rows), bool))

    def _find_repeats(self) -> np.ndarray:
        """True for each document that repeats the content of an earlier one."""
        repeats = np.zeros(self.first[-1], bool)
        n_passes = -(-len(repeats) // DEDUP_DIGESTS)
        for number in range(n_passes):
            digests, ordinals = self._digests(number, n_passes)
            order = np.lexsort((ordinals, digests[:, 1], digests[:, 0]))
            same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
            repeats[ordinals[order[1:]][same]] = True
        return repeats

    def _digests(self, number: int, n_passes: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of the kept documents that belong to this pass, and the documents' numbers."""
        digests, ordinals = [np.zeros((0, 2), "<u8")], [np.zeros(0, np.int64)]
        for source, paths in enumerate(self.chunks):
            first = self.first[source]
            for group in groups(paths, self.options.limit):
                rows = group.documents
                in_pass = rows["digest"][:, 0] % np.uint64(n_passes) == number
                indices = np.flatnonzero((rows["outcome"] == Outcome.KEPT) & in_pass)
                digests.append(rows["digest"][indices])
                ordinals.append(indices + first)
                first += len(rows)
        return np.concatenate(digests), np.concatenate(ordinals)


def tail(total: int, fraction: float) -> int:
    """How many of `total` are held out: rounded, but at least one if any are wanted, and never all."""
    return min(max(1, round(total * fraction)), max(0, total - 1)) if fraction else 0


def below(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """True where a 64-bit hash, scaled to [0, 1), is below `fraction`."""
    return hashes < np.uint64(int(fraction * 2.0**64)) if fraction else np.zeros(len(hashes), bool)


def groups(paths: Sequence[Path], limit: int | None) -> Iterator[Group]:
    """The first `limit` documents of a source's chunk files."""
    pending: list[tuple[Path, np.ndarray]] = []
    left = limit
    for path in paths:
        rows = chunk_files.read_rows(path)
        if pending and not (len(rows) and rows["flags"][0] & CONTINUES):
            yield (group := _group(pending, left))
            pending, left = [], None if left is None else left - len(group.documents)
        if left == 0:
            return
        pending.append((path, rows))
    if pending:
        yield _group(pending, left)


def _group(chunks: list[tuple[Path, np.ndarray]], left: int | None) -> Group:
    documents = chunks[0][1] if len(chunks) == 1 else _merge(np.concatenate([rows for _, rows in chunks]))
    return Group(
        tuple(path for path, _ in chunks),
        tuple(int(rows["tokens"].sum()) for _, rows in chunks),
        documents[:left],
    )


def _merge(fragments: np.ndarray) -> np.ndarray:
    """One row for a document in fragments; if one fragment cannot be read, neither can the document."""
    row = fragments[:1].copy()
    row["digest"] = np.frombuffer(hashlib.sha256(fragments["digest"].tobytes()).digest()[:16], "<u8")
    row["tokens"], row["bytes"] = fragments["tokens"].sum(), fragments["bytes"].sum()
    row["outcome"] = fragments["outcome"].max()
    return row
