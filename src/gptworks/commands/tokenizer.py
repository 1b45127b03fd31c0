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

SAMPLE = 1_000_000
"""Characters of the text on which the result is measured."""


def train(
    recipe: Annotated[Path | None, Parameter(help="A TOML recipe; flags beat it.")] = None,  # noqa: ARG001 - read by cli
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

    The result is a tokenizer.json: `gptworks prepare --tokenizer DIR` takes it, and AutoTokenizer loads it.
    Of the prepare options, those count that say how texts are read and which are kept.
    """
    from gptworks.report import terminal
    from gptworks.text import bpe as training

    options = dataclasses.replace(prepare, sources=sources or prepare.sources)
    if not options.sources or out is None:
        raise ConfigError(f"tokenizer train needs --{'out DIR' if out is None else 'sources FILE_OR_DIR'}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder")
    if (out / "tokenizer.json").exists():
        raise ConfigError(f"{out} holds a tokenizer already; give another --out")
    training.check(bpe)
    sample: list[str] = []
    with terminal.err.status("reading texts") as status:

        def show(n_bytes: int) -> None:
            status.update(f"reading texts: {n_bytes / 1e6:,.0f} MB")

        tokenizer = training.train(_texts(options, sample), bpe, show)
    tokenizer.save(out)
    print(
        f"{out}: {tokenizer.vocab_size:,} tokens, {_bytes_per_token(tokenizer, sample):.2f} bytes per token"
    )
    if tokenizer.vocab_size < bpe.vocab_size:
        terminal.say(f"fewer than the {bpe.vocab_size:,} asked for: the text has no more pairs to merge")


def _texts(options: PrepareOptions, sample: list[str]) -> Iterator[str]:
    """The text of every source, one after the other; its beginning also goes into `sample`."""
    from gptworks.data.documents import documents
    from gptworks.data.sources import find, no_text

    missing = SAMPLE
    for document in (document for source in options.sources for document in documents(source, options)):
        if missing > 0:
            sample.append(document.text[:missing])
            missing -= len(sample[-1])
        yield document.text
    if missing == SAMPLE:
        why = "".join(no_text(find(source, options)) for source in options.sources)
        raise DataError(f"no text in {', '.join(options.sources)}{why}")


def _bytes_per_token(tokenizer: Tokenizer, sample: list[str]) -> float:
    from gptworks.text.tokenizer import clean

    n_tokens = sum(map(len, tokenizer.encode_batch(sample)))
    return sum(len(clean(text).encode()) for text in sample) / max(1, n_tokens)
