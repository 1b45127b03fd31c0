"""Evaluation items that occur in a Dataset: those that share 13 consecutive words with one of its documents.

Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C: text is lower-cased and stripped of
punctuation, and an item with fewer words must occur as a whole. The index holds the n-grams of the items, which are
few; documents stream past it, so memory does not grow with the Dataset. Hashes find candidates, which are then
compared word by word.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptworks.data.dataset import Dataset
from gptworks.evaluation.questions import Question
from gptworks.evaluation.scores import Score
from gptworks.messages import counted
from gptworks.text.tokenizer import Tokenizer

N = 13
MIN_WORDS = 5
"""Shorter items occur by chance, so they are not searched for."""

MAX_LISTED = 5
"""Documents listed for an item; all are counted."""

WORD = re.compile(r"[^\W_]+")


@dataclass
class ItemHits:
    """The documents that an item occurs in."""

    item: Question
    documents: list[str] = field(default_factory=list)
    """SPLIT:NUMBER of the first few, numbered from 0 in the Dataset's order."""
    count: int = 0
    words: str = ""
    """The words of the first match."""


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search for one set of items."""

    items: int
    too_short: int
    """Items with too few words to search for."""
    hits: list[ItemHits]
    documents: int
    """Documents searched."""


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return WORD.findall(text.lower())


class NgramIndex:
    """The n-grams of items, to search for in documents."""

    def __init__(self, items: Iterable[Question]) -> None:
        self.word_ids: dict[str, int] = {}
        """Ids of the words that occur in items; all other words have id 0."""
        self.items: list[Question] = []
        self.too_short: set[int] = set()
        self.grams: dict[int, dict[tuple[int, ...], set[int]]] = defaultdict(lambda: defaultdict(set))
        """n -> n-gram of word ids -> numbers of items."""
        for item in items:
            self._add(
                item, [self.word_ids.setdefault(word, len(self.word_ids) + 1) for word in words(item.text)]
            )
        self.hashes = {
            n: np.array(sorted({_hash(g) for g in grams}), np.uint64) for n, grams in self.grams.items()
        }

    def _add(self, item: Question, ids: list[int]) -> None:
        number = len(self.items)
        self.items.append(item)
        if len(ids) < MIN_WORDS:
            self.too_short.add(number)
            return
        n = min(N, len(ids))
        for start in range(len(ids) - n + 1):
            self.grams[n][tuple(ids[start : start + n])].add(number)

    def search(self, text: str) -> dict[int, str]:
        """The items that share an n-gram with a document, each with the words of its first match."""
        document = words(text)
        ids = np.fromiter((self.word_ids.get(word, 0) for word in document), np.uint64, len(document))
        matches: dict[int, str] = {}
        for n, hashes in self.hashes.items():
            for start in np.flatnonzero(np.isin(_rolling_hash(ids, n), hashes)).tolist():
                gram = tuple(int(id) for id in ids[start : start + n])
                for item in self.grams[n].get(gram, ()):  # hashes may collide
                    matches.setdefault(item, " ".join(document[start : start + n]))
        return matches


BASE = np.uint64(0x9E3779B97F4A7C15)


def _rolling_hash(ids: np.ndarray, n: int) -> np.ndarray:
    """(T,) uint64 -> (T - n + 1,) hashes of all n-grams, modulo 2^64."""
    if len(ids) < n:
        return np.zeros(0, np.uint64)
    total = np.zeros(len(ids) - n + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(n):
            total = total * BASE + (ids[place : len(ids) - n + 1 + place] + np.uint64(1))
    return total


def _hash(gram: Sequence[int]) -> int:
    return int(_rolling_hash(np.array(gram, np.uint64), len(gram))[0])


def search(sets: Sequence[Sequence[Question]], documents: Iterable[tuple[str, str]]) -> list[SearchResult]:
    """Search (name, text) documents, read once for all sets, for questions with their right answers."""
    index = NgramIndex([item for items in sets for item in items])
    hits: dict[int, ItemHits] = {}
    n_documents = 0
    for name, text in documents:
        n_documents += 1
        for item, matched in index.search(text).items():
            hit = hits.setdefault(item, ItemHits(index.items[item], words=matched))
            hit.count += 1
            if len(hit.documents) < MAX_LISTED:
                hit.documents.append(name)
    results, first = [], 0
    for items in sets:
        numbers = range(first, first + len(items))
        too_short = len(index.too_short.intersection(numbers))
        listed = [hits[number] for number in numbers if number in hits]
        results.append(SearchResult(len(items), too_short, listed, n_documents))
        first = numbers.stop
    return results


def documents(dataset: Dataset, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """SPLIT:NUMBER and text of every document in a Dataset, one at a time."""
    for name in ("train", "val"):
        split = dataset.split(name)
        number = 0
        for shard in split.shards if split is not None else ():
            begin = 0
            for end in shard.ends.tolist():
                yield f"{name}:{number}", tokenizer.decode(shard.tokens[begin:end])
                begin, number = end, number + 1


def score(result: SearchResult, dataset: Dataset) -> Score:
    """The share of items found, as a Score of the evaluation set."""
    samples = np.zeros((result.items, 2))
    samples[: len(result.hits), 0] = 1.0
    samples[:, 1] = 1.0
    return Score(
        "contaminated",
        samples,
        "mean",
        f"share of items of which {N} words in a row (all of them, where there are fewer), lower-case and without "
        f"punctuation, occur in a document of the Dataset with fingerprint {dataset.fingerprint[:12]}",
        result.items,
        higher_is_better=False,
        notes=(
            f"{counted(result.too_short, 'item')} of fewer than {MIN_WORDS} words, which are not searched for",
        )
        if result.too_short
        else (),
        details=report(result) | {"dataset": str(dataset.path), "dataset_fingerprint": dataset.fingerprint},
    )


def report(result: SearchResult) -> dict[str, Any]:
    """The items found, with their documents."""
    return {
        "documents": result.documents,
        "items": [
            {
                "item": hit.item.place,
                "identity": hit.item.identity,
                "documents": hit.documents,
                "n_documents": hit.count,
                "words": hit.words,
            }
            for hit in result.hits
        ],
    }
