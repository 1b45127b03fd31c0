"""A separate program: `fast_bpe.py CORPUS N_TOKENS RESULT` trains merges with gigatoken.

gigatoken prints progress and never frees its memory, so bpe.py runs it in a process of its own and discards the output.
CORPUS holds UTF-8 texts, each followed by the byte 0xFF. RESULT gets one merge per line: its two parts in base64.
"""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

SEPARATOR = b"\xff"
CHUNK_BYTES = 1 << 24

Merges = list[tuple[bytes, bytes]]


def main(corpus: Path, n_tokens: int, result: Path) -> None:
    """Train on the corpus and write the merges."""
    from gigatoken import TextFileSource, train_bpe

    _, merges = train_bpe(TextFileSource([corpus], separator=SEPARATOR), n_tokens, [])
    with result.open("wb") as file:
        file.writelines(
            b" ".join(map(base64.b64encode, pair)) + b"\n" for pair in merges[: count_real(merges, corpus)]
        )


def count_real(merges: Merges, corpus: Path) -> int:
    """How many merges occur in the corpus. gigatoken keeps adding merges after every word has become a token.

    In that case every word of the corpus is a token, and the last real merge completed one.
    """
    from gigatoken.gigatoken_rs import pretokenized_counts

    ranks = {left + right: rank for rank, (left, right) in enumerate(merges)}
    last = -1
    for texts in chunks(corpus):
        for word, _ in pretokenized_counts(texts, SEPARATOR):
            if len(word) > 1:
                if word not in ranks:
                    return len(merges)
                last = max(last, ranks[word])
    return last + 1


def chunks(corpus: Path) -> Iterator[bytes]:
    """The corpus in chunks of whole texts."""
    with corpus.open("rb") as file:
        rest = b""
        while block := file.read(CHUNK_BYTES):
            head, separator, tail = block.rpartition(SEPARATOR)
            if separator:
                yield rest + head
            rest = tail if separator else rest + block


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
