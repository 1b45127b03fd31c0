"""What becomes of each document once all are known: limits, repeats, weights, and the validation split.

Everything is decided from the parts' rows, a few numbers per document, in the order of the sources. So it
depends neither on who encoded what nor on when, and no text or token is held in memory.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gptworks.data import parts
from gptworks.data.parts import CONTINUES, CUT_TOKENS, CUT_WORDS
from gptworks.data.records import Fate
from gptworks.data.sources import Source
from gptworks.recipe import PrepareOptions

DEDUP_DIGESTS = 4 << 20
"""How many content hashes are compared at once; more of them take more passes, not more memory."""


@dataclass(frozen=True)
class Group:
    """A part and its documents; or the parts of a document that was worked on in fragments."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]
    """Tokens in each part."""
    documents: np.ndarray
    """Rows (parts.ROW), one per document."""


@dataclass(frozen=True)
class Chosen:
    """A group's share in the Dataset."""

    group: Group
    copies: np.ndarray
    """How often each document is taken."""
    validation: np.ndarray
    """True where it goes to validation, and then once."""
    cut: int | None = None
    """The source's only document goes to training up to this token, and to validation from there."""


@dataclass
class Tally:
    """What happened to a source's documents."""

    documents: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)

    def count(self, chosen: Chosen) -> None:
        rows, taken = chosen.group.documents, chosen.copies > 0
        self.documents += len(rows)
        self.kept += int(taken.sum())
        for fate in Fate:
            if fate is not Fate.KEPT:
                _add(self.dropped, fate.name.lower(), rows["fate"] == fate)
        _add(self.cut, "words", taken & (rows["flags"] & CUT_WORDS != 0))
        _add(self.cut, "tokens", taken & (rows["flags"] & CUT_TOKENS != 0))


def _add(counts: dict[str, int], name: str, which: np.ndarray) -> None:
    if n := int(which.sum()):
        counts[name] = counts.get(name, 0) + n


class Selection:
    """Decides for all sources; `parts` holds the paths of each one's parts."""

    def __init__(
        self, sources: Sequence[Source], parts: Sequence[Sequence[Path]], options: PrepareOptions
    ) -> None:
        self.sources, self.parts, self.options = sources, parts, options
        self.first = [0]
        for paths in parts:
            self.first.append(self.first[-1] + sum(len(g.documents) for g in groups(paths, options.limit)))
        self.repeats = self._repeats() if options.dedup else None

    def choose(self, source: int) -> Iterator[Chosen]:
        """What is taken from a source, in order."""
        options = self.options
        total = sum(int((chosen.copies > 0).sum()) for chosen in self._taken(source))
        by_source = options.val_by == "source"
        held_out = 0 if by_source else tail(total, options.val_fraction)
        seen = 0
        for chosen in self._taken(source):
            taken = chosen.copies > 0
            if by_source:
                validation = taken & self.sources[source].validation
            elif total == 1:
                yield replace(chosen, cut=self._cut(chosen.group, taken))
                continue
            elif options.val_by == "tail":
                validation = taken & (seen + np.cumsum(taken) > total - held_out)
            else:
                validation = taken & below(chosen.group.documents["digest"][:, 0], options.val_fraction)
            seen += int(taken.sum())
            yield replace(chosen, validation=validation)

    def _cut(self, group: Group, taken: np.ndarray) -> int | None:
        """Where validation begins in a source's only document."""
        if not self.options.val_fraction or not taken.any():
            return None
        n_tokens = int(group.documents["tokens"][taken][0])
        return n_tokens - tail(n_tokens, self.options.val_fraction) if n_tokens > 1 else None

    def _taken(self, source: int) -> Iterator[Chosen]:
        """The documents that weights and repeats leave, with their final fates."""
        weight = self.sources[source].weight
        ordinal = self.first[source]
        for group in groups(self.parts[source], self.options.limit):
            rows = group.documents.copy()
            if self.repeats is not None:
                rows["fate"][self.repeats[ordinal : ordinal + len(rows)]] = Fate.DUPLICATE
            ordinal += len(rows)
            copies = int(weight) + below(rows["digest"][:, 1], weight % 1).astype(np.int64)
            kept = rows["fate"] == Fate.KEPT
            rows["fate"][kept & (copies == 0)] = Fate.WEIGHT
            copies[~kept] = 0
            yield Chosen(Group(group.paths, group.lengths, rows), copies, np.zeros(len(rows), bool))

    def _repeats(self) -> np.ndarray:
        """True for each document whose content an earlier one has."""
        repeats = np.zeros(self.first[-1], bool)
        passes = -(-len(repeats) // DEDUP_DIGESTS)
        for number in range(passes):
            digests, ordinals = self._digests(number, passes)
            order = np.lexsort((ordinals, digests[:, 1], digests[:, 0]))
            same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
            repeats[ordinals[order[1:]][same]] = True
        return repeats

    def _digests(self, number: int, passes: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the kept documents whose turn it is in this pass, and which documents they are."""
        found, ordinals = [np.zeros((0, 2), "<u8")], [np.zeros(0, np.int64)]
        for source, paths in enumerate(self.parts):
            ordinal = self.first[source]
            for group in groups(paths, self.options.limit):
                rows = group.documents
                turn = np.flatnonzero(
                    (rows["fate"] == Fate.KEPT) & (rows["digest"][:, 0] % np.uint64(passes) == number)
                )
                found.append(rows["digest"][turn])
                ordinals.append(turn + ordinal)
                ordinal += len(rows)
        return np.concatenate(found), np.concatenate(ordinals)


def tail(total: int, fraction: float) -> int:
    """How many of `total` are held out: the nearest number, but some if any are wanted, and never all."""
    return min(max(1, round(total * fraction)), max(0, total - 1)) if fraction else 0


def below(words: np.ndarray, fraction: float) -> np.ndarray:
    """True where a hash, as a number in [0, 1), is below `fraction`."""
    return words < np.uint64(int(fraction * 2.0**64)) if fraction else np.zeros(len(words), bool)


def groups(paths: Sequence[Path], limit: int | None) -> Iterator[Group]:
    """The documents of a source's parts, the first `limit` of them."""
    held: list[tuple[Path, np.ndarray]] = []
    left = limit
    for path in paths:
        rows = parts.read_rows(path)
        if held and not (len(rows) and rows["flags"][0] & CONTINUES):
            yield (group := _group(held, left))
            held, left = [], None if left is None else left - len(group.documents)
        if left == 0:
            return
        held.append((path, rows))
    if held:
        yield _group(held, left)


def _group(held: list[tuple[Path, np.ndarray]], left: int | None) -> Group:
    documents = held[0][1] if len(held) == 1 else _merged(np.concatenate([rows for _, rows in held]))
    return Group(
        tuple(path for path, _ in held),
        tuple(int(rows["tokens"].sum()) for _, rows in held),
        documents[:left],
    )


def _merged(fragments: np.ndarray) -> np.ndarray:
    """One row for a document that was worked on in fragments; one that cannot be read spoils all of it."""
    row = fragments[:1].copy()
    row["digest"] = np.frombuffer(hashlib.sha256(fragments["digest"].tobytes()).digest()[:16], "<u8")
    row["tokens"], row["bytes"] = fragments["tokens"].sum(), fragments["bytes"].sum()
    row["fate"] = fragments["fate"].max()
    return row
