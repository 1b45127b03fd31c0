"""Train a byte-level BPE tokenizer on a stream of texts, in one pass and without keeping them in memory.

The merges are those of the `tokenizers` trainer: the most frequent pair first, ties in the order of ids (Sennrich et
al. 2016, "Neural Machine Translation of Rare Words with Subword Units", on bytes). gigatoken finds the same merges in a
ninth of the CPU time, but only with GPT-2's split pattern; a test compares the two.
"""

import base64
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from errno import ENOSPC
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from gptworks.errors import ConfigError, DataError, ResourceError
from gptworks.recipe import BpeOptions
from gptworks.text import fast_bpe
from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS, unicode_to_bytes
from gptworks.text.tokenizer import Tokenizer, clean
from gptworks.text.vocabulary import Vocabulary

Progress = Callable[[int], None]

PROGRESS_BYTES = 1_000_000
"""Bytes between two calls of `progress`."""
CHUNK_CHARS = 1 << 16
"""Characters passed to a trainer at once: `tokenizers` buffers 256 texts, at many bytes per character."""
_SPLIT_POINT = re.compile(
    r"[A-Za-z](?=\n)"
)  # no split pattern of ours joins a letter and a following newline


def train(texts: Iterable[str], options: BpeOptions, progress: Progress | None = None) -> Tokenizer:
    """Train a tokenizer on texts; `progress` is called with the number of bytes read.

    The vocabulary is smaller than requested if the text has too few pairs to merge.

    Raises:
        ConfigError: the vocabulary has no room for the bytes, the special tokens and one merge.
        DataError: there is no text.
    """
    check(options)
    fast = options.pattern == "gpt2" and find_spec("gigatoken") is not None
    read = _read(texts, options.max_bytes, progress or (lambda _: None))
    first = next(read, None)
    if first is None:
        raise DataError("no text to train a tokenizer on")
    n_tokens = options.vocab_size - len(options.special_tokens)
    merges = (by_gigatoken if fast else by_tokenizers)(chain([first], read), n_tokens, options.pattern)
    tokens = [*(bytes([byte]) for byte in BYTE_ORDER), *dict.fromkeys(left + right for left, right in merges)]
    ids = {token: id for id, token in enumerate(tokens)}
    vocabulary = Vocabulary(ids, tuple(merges), (PATTERNS[options.pattern],))
    vocabulary = vocabulary.with_specials(options.special_tokens)
    eos = options.special_tokens[0] if options.special_tokens else None
    return Tokenizer.from_vocabulary(vocabulary, {"eos_token": eos})


def check(options: BpeOptions) -> None:
    """Refuse options that no training can satisfy."""
    names = options.special_tokens
    if len(set(names)) != len(names) or "" in names:
        raise ConfigError(f"bpe.special_tokens={list(names)} has a duplicate or empty name")
    least = 256 + len(names) + 1
    if options.vocab_size < least:
        raise ConfigError(
            f"bpe.vocab_size={options.vocab_size} has no room for 256 bytes, {len(names)} special tokens and one "
            f"merge; use at least {least}"
        )


def by_tokenizers(texts: Iterable[str], n_tokens: int, pattern: str) -> fast_bpe.Merges:
    """Merges from the reference trainer, on all cores."""
    from tokenizers import Tokenizer as Engine  # imported here because only training needs it
    from tokenizers import models, pre_tokenizers, trainers

    untrained = Vocabulary(
        {bytes([byte]): id for id, byte in enumerate(BYTE_ORDER)}, (), (PATTERNS[pattern],)
    )
    engine = Engine.from_str(json.dumps(untrained.tokenizer_json()))
    engine.model = models.BPE()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(chain.from_iterable(map(_chunks, texts)), trainer)
    rules = json.loads(engine.to_str())["model"]["merges"]
    return [(unicode_to_bytes(left) or b"", unicode_to_bytes(right) or b"") for left, right in rules]


def by_gigatoken(texts: Iterable[str], n_tokens: int, pattern: str) -> fast_bpe.Merges:
    """The same merges from gigatoken, which reads the texts from a file in a separate process (fast_bpe.py)."""
    assert pattern == "gpt2"
    with tempfile.TemporaryDirectory(prefix="gptworks-") as folder:
        corpus, result = Path(folder, "corpus"), Path(folder, "merges")
        _spool(texts, corpus)
        command = [sys.executable, "-P", fast_bpe.__file__, str(corpus), str(n_tokens), str(result)]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"gigatoken.train_bpe failed: {done.stderr[-1000:]}")
        pairs = (line.split(b" ") for line in result.read_bytes().splitlines())
        return [(base64.b64decode(left), base64.b64decode(right)) for left, right in pairs]


def _spool(texts: Iterable[str], corpus: Path) -> None:
    try:
        with corpus.open("wb") as file:
            file.writelines(chunk.encode() + fast_bpe.SEPARATOR for text in texts for chunk in _chunks(text))
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise ResourceError(
            f"{corpus.parent} is full: training writes a copy of the text there; set TMPDIR or lower bpe.max_bytes"
        ) from None


def _read(texts: Iterable[str], max_bytes: int, progress: Progress) -> Iterator[str]:
    """The non-empty texts, up to max_bytes in total."""
    n_bytes = reported = 0
    for text in texts:
        data = clean(text).encode()[: max_bytes - n_bytes]
        if data:
            n_bytes += len(data)
            if n_bytes - reported > PROGRESS_BYTES:
                reported = n_bytes
                progress(n_bytes)
            yield data.decode(errors="ignore")  # the last text may be cut inside a character
        if n_bytes >= max_bytes:
            return


def _chunks(text: str) -> Iterator[str]:
    """Cut a text at line ends that no token can cross."""
    start = 0
    while len(text) - start > CHUNK_CHARS:
        match = _SPLIT_POINT.search(text, start + CHUNK_CHARS)
        if match is None:
            break
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]
