"""Which evaluation items stand in a Dataset: those of which 13 words in a row occur in one of its documents.

Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C: text is lower-cased and stripped of
punctuation, and an item of fewer words is looked for as a whole. The n-grams looked for are those of the items, which
are few; documents pass by one after the other, so memory does not grow with the Dataset. Hashes find candidates, words
decide.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gptworks.data.dataset import Dataset
from gptworks.evaluate.questions import Question
from gptworks.evaluate.results import Score
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

N = 13
FEWEST = 5
"""Items of fewer words say nothing by being found."""

KEPT_DOCUMENTS = 5
"""How many documents are named for an item; all are counted."""

WORD = re.compile(r"[^\W_]+")


@dataclass
class Hits:
    """Where an item was found."""

    item: Question
    documents: list[str] = field(default_factory=list)
    """SPLIT:NUMBER of the first few, counted from 0 as in the Dataset."""
    count: int = 0
    words: str = ""
    """The words that were found first."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    items: int
    too_short: int
    """Items of too few words to be looked for."""
    hits: list[Hits]
    documents: int
    """That were read."""


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return WORD.findall(text.lower())


class Index:
    """The n-grams of items, to be looked for in documents."""

    def __init__(self, items: Iterable[Question]) -> None:
        self.numbers: dict[str, int] = {}
        """Words that occur in an item; a document's other words are 0."""
        self.items: list[Question] = []
        self.too_short: set[int] = set()
        self.grams: dict[int, dict[tuple[int, ...], set[int]]] = defaultdict(lambda: defaultdict(set))
        """Length -> the words' numbers -> items."""
        for item in items:
            said = words(item.text)
            self._add(item, [self.numbers.setdefault(word, len(self.numbers) + 1) for word in said])
        self.hashes = {
            n: np.array(sorted({_hash(g) for g in grams}), np.uint64) for n, grams in self.grams.items()
        }

    def _add(self, item: Question, numbers: list[int]) -> None:
        number = len(self.items)
        self.items.append(item)
        if len(numbers) < FEWEST:
            self.too_short.add(number)
            return
        n = min(N, len(numbers))
        for start in range(len(numbers) - n + 1):
            self.grams[n][tuple(numbers[start : start + n])].add(number)

    def search(self, text: str) -> dict[int, str]:
        """Items that a document shares an n-gram with, and its words."""
        said = words(text)
        numbers = np.fromiter((self.numbers.get(word, 0) for word in said), np.uint64, len(said))
        found: dict[int, str] = {}
        for n, hashes in self.hashes.items():
            for start in np.flatnonzero(np.isin(_rolling(numbers, n), hashes)).tolist():
                gram = tuple(int(number) for number in numbers[start : start + n])
                for item in self.grams[n].get(gram, ()):  # a hash alone proves nothing
                    found.setdefault(item, " ".join(said[start : start + n]))
        return found


BASE = np.uint64(0x9E3779B97F4A7C15)


def _rolling(numbers: np.ndarray, n: int) -> np.ndarray:
    """(T,) uint64 -> (T - n + 1,) a hash of each n in a row, modulo 2^64."""
    if len(numbers) < n:
        return np.zeros(0, np.uint64)
    total = np.zeros(len(numbers) - n + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(n):
            total = total * BASE + (numbers[place : len(numbers) - n + 1 + place] + np.uint64(1))
    return total


def _hash(gram: Sequence[int]) -> int:
    return int(_rolling(np.array(gram, np.uint64), len(gram))[0])


def search(sets: Sequence[Sequence[Question]], documents: Iterable[tuple[str, str]]) -> list[Found]:
    """Look for questions, with their right answers, in (name, text) documents, which are read once for all sets."""
    index = Index([item for items in sets for item in items])
    hits: dict[int, Hits] = {}
    read = 0
    for name, text in documents:
        read += 1
        for item, said in index.search(text).items():
            hit = hits.setdefault(item, Hits(index.items[item], words=said))
            hit.count += 1
            if len(hit.documents) < KEPT_DOCUMENTS:
                hit.documents.append(name)
    found, first = [], 0
    for items in sets:
        mine = range(first, first + len(items))
        too_short = len(index.too_short.intersection(mine))
        found.append(Found(len(items), too_short, [hits[number] for number in mine if number in hits], read))
        first = mine.stop
    return found


def documents(dataset: Dataset, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """SPLIT:NUMBER and text of every document of a Dataset, one at a time."""
    for name in ("train", "val"):
        split = dataset.split(name)
        number = 0
        for shard in split.shards if split is not None else ():
            begin = 0
            for end in shard.ends.tolist():
                yield f"{name}:{number}", tokenizer.decode(shard.tokens[begin:end])
                begin, number = end, number + 1


def score(found: Found, dataset: Dataset) -> Score:
    """The share of items that were found, as a Score of the evaluation set."""
    samples = np.zeros((found.items, 2))
    samples[: len(found.hits), 0] = 1.0
    samples[:, 1] = 1.0
    return Score(
        "contaminated",
        samples,
        "mean",
        f"share of items of which {N} words in a row (all of them, where there are fewer), lower-case and without "
        f"punctuation, occur in a document of the Dataset with fingerprint {dataset.fingerprint[:12]}",
        found.items,
        higher_is_better=False,
        notes=(f"{counted(found.too_short, 'item')} of fewer than {FEWEST} words: not looked for",)
        if found.too_short
        else (),
        details=report(found) | {"dataset": str(dataset.path), "dataset_fingerprint": dataset.fingerprint},
    )


def report(found: Found) -> dict[str, Any]:
    """What was found, item by item."""
    return {
        "documents": found.documents,
        "items": [
            {
                "item": hit.item.place,
                "identity": hit.item.identity,
                "documents": hit.documents,
                "n_documents": hit.count,
                "words": hit.words,
            }
            for hit in found.hits
        ],
    }
