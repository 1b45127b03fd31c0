"""Training a byte-level BPE tokenizer on text, reading each text once and holding none of it.

The merges are those of the `tokenizers` trainer: the most frequent pair first, ties by the order of ids
(Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", on bytes). gigatoken
finds the same merges in a ninth of the CPU time, for GPT-2's split pattern alone; a test compares them.
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
from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS, token_bytes
from gptworks.text.tokenizer import Tokenizer, clean
from gptworks.text.vocabulary import Vocabulary

Progress = Callable[[int], None]

TELL_EVERY = 1_000_000
"""Bytes between two calls of `progress`."""
PIECE = 1 << 16
"""Characters given to a trainer at once: `tokenizers` keeps 256 texts, at many bytes a character."""
_CUT = re.compile(r"[A-Za-z](?=\n)")  # no split pattern of ours joins a letter and the line end after it


def train(texts: Iterable[str], options: BpeOptions, progress: Progress | None = None) -> Tokenizer:
    """A tokenizer trained on texts; `progress` hears how many bytes have been read.

    Its vocabulary is smaller than asked for when the text has no more pairs to merge.

    Raises:
        ConfigError: the vocabulary has no room for bytes, special tokens and one merge.
        DataError: there is no text.
    """
    check(options)
    fast = options.pattern == "gpt2" and find_spec("gigatoken") is not None
    read = _read(texts, options.max_bytes, progress or _ignore)
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
    return Tokenizer.of(vocabulary, {"eos_token": eos})


def check(options: BpeOptions) -> None:
    """Refuse what no training could give."""
    names = options.special_tokens
    if len(set(names)) != len(names) or "" in names:
        raise ConfigError(f"bpe.special_tokens={list(names)} names a token twice, or an empty one")
    least = 256 + len(names) + 1
    if options.vocab_size < least:
        raise ConfigError(
            f"bpe.vocab_size={options.vocab_size} has no room for 256 bytes, "
            f"{len(names)} special tokens and a merge; give at least {least}"
        )


def by_tokenizers(texts: Iterable[str], n_tokens: int, pattern: str) -> fast_bpe.Merges:
    """Merges of the reference trainer, on all cores."""
    from tokenizers import Tokenizer as Engine  # here: training alone needs it
    from tokenizers import models, pre_tokenizers, trainers

    nothing = Vocabulary({bytes([byte]): id for id, byte in enumerate(BYTE_ORDER)}, (), (PATTERNS[pattern],))
    engine = Engine.from_str(json.dumps(nothing.tokenizer_json()))
    engine.model = models.BPE()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(chain.from_iterable(map(_pieces, texts)), trainer)
    rules = json.loads(engine.to_str())["model"]["merges"]
    return [(token_bytes(left) or b"", token_bytes(right) or b"") for left, right in rules]


def by_gigatoken(texts: Iterable[str], n_tokens: int, pattern: str) -> fast_bpe.Merges:
    """The same merges from gigatoken, which reads the texts from a file.

    It prints as it goes, so it works in a process of its own, whose memory goes with it.
    """
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
            file.writelines(piece.encode() + fast_bpe.BETWEEN for text in texts for piece in _pieces(text))
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        advice = "training copies the text there; set TMPDIR or lower bpe.max_bytes"
        raise ResourceError(f"{corpus.parent} is full: {advice}") from None


def _read(texts: Iterable[str], max_bytes: int, progress: Progress) -> Iterator[str]:
    """The texts that have something in them, up to max_bytes in all."""
    n_bytes = told = 0
    for text in texts:
        data = clean(text).encode()[: max_bytes - n_bytes]
        if data:
            n_bytes += len(data)
            if n_bytes - told > TELL_EVERY:
                told = n_bytes
                progress(n_bytes)
            yield data.decode(errors="ignore")  # the last one may end inside a character
        if n_bytes >= max_bytes:
            return


def _pieces(text: str) -> Iterator[str]:
    """A text cut at line ends where no token could cross."""
    start = 0
    while len(text) - start > PIECE:
        cut = _CUT.search(text, start + PIECE)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


def _ignore(_: int) -> None:
    """Progress that nobody watches."""
