"""Texts to measure perplexity on: files and Datasets as documents, and WikiText's tokens turned back into text.

A plain text file is one document; JSON lines, Parquet and the like have one a record, as `prepare` reads them; a
Dataset has those it was made of, as tokens, without the marks between them.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptworks.data.dataset import Dataset, Split
from gptworks.data.documents import documents
from gptworks.data.order import Stream
from gptworks.errors import ConfigError, DataError
from gptworks.evaluate.results import Split as Held
from gptworks.recipe import PerplexityOptions, PrepareOptions
from gptworks.text.tokenizer import Tokenizer

PLAIN = (".txt", ".md", ".text", ".tokens", ".raw", "")
"""Endings of files that are one text."""


@dataclass(frozen=True)
class Text:
    """A document as a model reads it."""

    ids: np.ndarray
    n_bytes: int
    """UTF-8 bytes of the text as it was given."""
    n_words: int
    """Words between spaces, of the text as it was given."""


@dataclass(frozen=True)
class Texts:
    """What perplexity is measured on."""

    name: str
    split: Held
    fingerprint: str
    documents: list[Text]


def load(
    source: str, tokenizer: Tokenizer, options: PerplexityOptions, split: Held, limit: int | None
) -> Texts:
    """The documents of a file, folder or Dataset (DATASET, DATASET@train), at most `limit`.

    Raises:
        DataError: there is no such thing, it holds no text, or a Dataset was made with another tokenizer.
        ConfigError: a detokenizer for a Dataset, whose text is tokens already.
    """
    name, _, which = source.partition("@")
    if (Path(name) / "manifest.json").is_file():
        return _of_dataset(Dataset.open(Path(name), verify=False), which or "val", tokenizer, options, limit)
    raw = list(_raw(Path(source), options, limit))
    digest = hashlib.sha256()
    for text in raw:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "replace"))
    clean = DETOKENIZERS[options.detokenizer]
    encoded = tokenizer.encode_batch([clean(text) for text in raw])
    found = [
        Text(ids, len(text.encode("utf-8", "replace")), len(text.split()))
        for text, ids in zip(raw, encoded, strict=True)
    ]
    return Texts(source, split, digest.hexdigest(), _not_empty(found, source))


def _raw(path: Path, options: PerplexityOptions, limit: int | None) -> Iterator[str]:
    if path.is_file() and path.suffix.lower() in PLAIN:
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text: {error}") from None
        return
    reading = PrepareOptions(text_key=options.text_key, limit=limit)
    yield from (document.text for document in documents(str(path), reading))


def _of_dataset(
    dataset: Dataset, which: str, tokenizer: Tokenizer, options: PerplexityOptions, limit: int | None
) -> Texts:
    if options.detokenizer != "none":
        raise ConfigError(
            f"{dataset.path} is a Dataset, its text is tokens already: leave out --perplexity.detokenizer"
        )
    if dataset.tokenizer_fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{dataset.path} was made with another tokenizer than this model's; give the texts it was made of"
        )
    if which not in {"train", "val"}:
        raise DataError(f"{dataset.path}@{which}: a Dataset has train and val")
    split = dataset.split("train" if which == "train" else "val")
    if split is None:
        raise DataError(f"{dataset.path} has no {which} split")
    found = [_text_of(ids, tokenizer) for ids in stretches(split, tokenizer, limit)]
    name = f"{dataset.path}@{which}"
    return Texts(name, "train" if which == "train" else "dev", dataset.fingerprint, _not_empty(found, name))


def stretches(split: Split, tokenizer: Tokenizer, limit: int | None = None) -> Iterator[np.ndarray]:
    """The documents of a split, one after the other, without the marks around them."""
    marks = [mark for mark in (tokenizer.eos_id, tokenizer.bos_id) if mark is not None]
    stream = Stream(split)
    ends = (
        int(end) + start
        for shard, start in zip(split.shards, stream.starts.tolist(), strict=False)
        for end in shard.ends
    )
    begin, given = 0, 0
    for end in ends:
        ids = stream.read(begin, end)
        begin = end
        ids = ids[~np.isin(ids, marks)]
        if len(ids):
            yield ids
            given += 1
        if given == limit:
            return


def _text_of(ids: np.ndarray, tokenizer: Tokenizer) -> Text:
    text = tokenizer.decode_bytes(ids)
    return Text(ids, len(text), len(text.split()))


def _not_empty(found: list[Text], source: str) -> list[Text]:
    kept = [text for text in found if len(text.ids)]
    if not kept:
        raise DataError(f"{source} holds no text")
    return kept


def wikitext(text: str) -> str:
    """WikiText's tokens as text: GPT-2's "invertible de-tokenizers", in lm-evaluation-harness's form.

    Radford et al. 2019, section 3.1; lm_eval/tasks/wikitext/preprocess_wikitext.py.
    """
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for given, meant in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(given, meant)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    for opening, closing in (r"()", r"[]", "{}", '""', "''"):
        one, other = re.escape(opening), re.escape(closing)
        inside = rf"[^{other}]*?"
        text = re.sub(rf"{one}\s*({inside})\s*{other}", rf"{opening}\1{closing}", text)
    for given, meant in (
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (f" {chr(176)} ", chr(176)),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ):
        text = text.replace(given, meant)
    return text


DETOKENIZERS = {"none": lambda text: text, "wikitext": wikitext}
