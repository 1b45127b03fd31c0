"""A program of its own: `fast_bpe.py CORPUS N_TOKENS RESULT` trains merges with gigatoken.

gigatoken prints as it goes and keeps its memory, so bpe.py runs this in a process that is silenced and ends.
CORPUS holds texts in UTF-8 with the byte 0xFF after each; RESULT gets the two parts of a merge on each line,
in base64.
"""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

BETWEEN = b"\xff"
CHUNK = 1 << 24

Merges = list[tuple[bytes, bytes]]


def main(corpus: Path, n_tokens: int, result: Path) -> None:
    """Train on the corpus and write the merges."""
    from gigatoken import TextFileSource, train_bpe

    _, merges = train_bpe(TextFileSource([corpus], separator=BETWEEN), n_tokens, [])
    with result.open("wb") as file:
        file.writelines(
            b" ".join(map(base64.b64encode, pair)) + b"\n" for pair in merges[: n_real(merges, corpus)]
        )


def n_real(merges: Merges, corpus: Path) -> int:
    """How many merges join something in the corpus. gigatoken goes on when every word has become one token.

    If that happened, the last real merge made a whole word, and every word of the corpus is a token.
    """
    from gigatoken.gigatoken_rs import pretokenized_counts

    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    last = -1
    for texts in chunks(corpus):
        for word, _ in pretokenized_counts(texts, BETWEEN):
            if len(word) > 1:
                if word not in ranks:
                    return len(merges)
                last = max(last, ranks[word])
    return last + 1


def chunks(corpus: Path) -> Iterator[bytes]:
    """The corpus, some whole texts at a time."""
    with corpus.open("rb") as file:
        rest = b""
        while block := file.read(CHUNK):
            head, mark, tail = block.rpartition(BETWEEN)
            if mark:
                yield rest + head
            rest = tail if mark else rest + block


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
