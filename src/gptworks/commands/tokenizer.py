"""`gptworks tokenizer train`: texts in, a tokenizer out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError, DataError
from gptworks.recipe import BpeOptions, PrepareOptions

if TYPE_CHECKING:
    from gptworks.text.tokenizer import Tokenizer

SAMPLE_CHARS = 1_000_000
"""Characters of text on which bytes per token are measured."""


def train(
    recipe: Annotated[Path | None, Parameter(help="A TOML recipe; flags override it.")] = None,  # noqa: ARG001 - read by cli
    /,
    *,
    sources: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=True, help="Files, folders, `python` or hf:OWNER/NAME. Default: the recipe's."
        ),
    ] = (),
    out: Annotated[
        Path | None, Parameter(help="Folder for tokenizer.json and tokenizer_config.json.")
    ] = None,
    bpe: Annotated[BpeOptions, Parameter(name="*")] = BpeOptions(),  # noqa: B008 - frozen
    prepare: PrepareOptions = PrepareOptions(),  # noqa: B008
) -> None:
    """Train a byte-level BPE tokenizer.

    The result is a tokenizer.json for `gptworks prepare --tokenizer DIR` and AutoTokenizer. Of the prepare options,
    only those that read and filter texts matter here.
    """
    train_tokenizer(dataclasses.replace(prepare, sources=sources or prepare.sources), bpe, out)


def train_tokenizer(options: PrepareOptions, bpe: BpeOptions, out: Path | None) -> Tokenizer:
    """Train a tokenizer on options.sources and save it in `out`.

    Raises:
        ConfigError, DataError: an option is missing or impossible, or a source cannot be read.
    """
    from gptworks.reports import terminal
    from gptworks.text import bpe as training

    if not options.sources or out is None:
        raise ConfigError(f"tokenizer train needs --{'out DIR' if out is None else 'sources FILE_OR_DIR'}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; choose a folder")
    if (out / "tokenizer.json").exists():
        raise ConfigError(f"{out} already holds a tokenizer; choose another --out")
    training.check(bpe)
    sample: list[str] = []
    with terminal.status("reading texts") as update:

        def show(n_bytes: int) -> None:
            update(f"reading texts: {n_bytes / 1e6:,.0f} MB")

        tokenizer = training.train(_texts(options, sample), bpe, show)
    tokenizer.save(out)
    terminal.show(
        f"{out}: {tokenizer.vocab_size:,} tokens, {_bytes_per_token(tokenizer, sample):.2f} bytes per token"
    )
    if tokenizer.vocab_size < bpe.vocab_size:
        terminal.say(f"fewer than --vocab-size {bpe.vocab_size:,}: the text has no more pairs to merge")
    return tokenizer


def _texts(options: PrepareOptions, sample: list[str]) -> Iterator[str]:
    """The texts of all sources; the first SAMPLE_CHARS also go into `sample`."""
    from gptworks.data.sources import binary_hint, find_source
    from gptworks.data.work_units import read_documents

    missing = SAMPLE_CHARS
    for document in (document for source in options.sources for document in read_documents(source, options)):
        if missing > 0:
            sample.append(document.text[:missing])
            missing -= len(sample[-1])
        yield document.text
    if missing == SAMPLE_CHARS:
        hints = "".join(binary_hint(find_source(source, options)) for source in options.sources)
        raise DataError(f"no text in {', '.join(options.sources)}{hints}")


def _bytes_per_token(tokenizer: Tokenizer, sample: list[str]) -> float:
    from gptworks.text.tokenizer import clean

    n_tokens = sum(map(len, tokenizer.encode_batch(sample)))
    return sum(len(clean(text).encode()) for text in sample) / max(1, n_tokens)
