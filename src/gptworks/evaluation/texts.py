"""Texts to measure perplexity on: the documents of files and Datasets, and a detokenizer for WikiText.

A plain text file is one document. JSON lines, Parquet and the like have one document per record, as in `prepare`. A
Dataset has its documents as tokens, without the separators between them.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptworks.data.dataset import Dataset, Split
from gptworks.data.shards import Stream
from gptworks.data.work_units import read_documents
from gptworks.errors import ConfigError, DataError
from gptworks.evaluation.scores import Split as EvalSplit
from gptworks.recipe import PerplexityOptions, PrepareOptions
from gptworks.text.tokenizer import Tokenizer

PLAIN = (".txt", ".md", ".text", ".tokens", ".raw", "")
"""Suffixes of files that are one document."""


@dataclass(frozen=True)
class Text:
    """A document as token ids."""

    ids: np.ndarray
    n_bytes: int
    """UTF-8 bytes of the original text."""
    n_words: int
    """Whitespace-separated words of the original text."""


@dataclass(frozen=True)
class Texts:
    """The documents of one source."""

    name: str
    split: EvalSplit
    fingerprint: str
    documents: list[Text]


def load(
    source: str, tokenizer: Tokenizer, options: PerplexityOptions, split: EvalSplit, limit: int | None
) -> Texts:
    """The documents of a file, folder or Dataset (DATASET for its val split, DATASET@train), at most `limit`.

    Raises:
        DataError: the source is missing or holds no text, or a Dataset was made with another tokenizer.
        ConfigError: a detokenizer for a Dataset, which holds tokens.
    """
    name, _, dataset_split = source.partition("@")
    if (Path(name) / "manifest.json").is_file():
        dataset = Dataset.open(Path(name), verify=False)
        return _from_dataset(dataset, dataset_split or "val", tokenizer, options, limit)
    raw = list(_read_texts(Path(source), options, limit))
    digest = hashlib.sha256()
    for text in raw:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "replace"))
    detokenize = DETOKENIZERS[options.detokenizer]
    encoded = tokenizer.encode_batch([detokenize(text) for text in raw])
    texts = [
        Text(ids, len(text.encode("utf-8", "replace")), len(text.split()))
        for text, ids in zip(raw, encoded, strict=True)
    ]
    return Texts(source, split, digest.hexdigest(), _not_empty(texts, source))


def _read_texts(path: Path, options: PerplexityOptions, limit: int | None) -> Iterator[str]:
    if path.is_file() and path.suffix.lower() in PLAIN:
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text: {error}") from None
        return
    prepare_options = PrepareOptions(text_key=options.text_key, limit=limit)
    yield from (document.text for document in read_documents(str(path), prepare_options))


def _from_dataset(
    dataset: Dataset, name: str, tokenizer: Tokenizer, options: PerplexityOptions, limit: int | None
) -> Texts:
    if options.detokenizer != "none":
        raise ConfigError(f"{dataset.path} is a Dataset and holds tokens; leave out --perplexity.detokenizer")
    if dataset.tokenizer_fingerprint != tokenizer.fingerprint:
        raise DataError(
            f"{dataset.path} was made with a tokenizer other than the model's; give its source texts instead"
        )
    if name not in {"train", "val"}:
        raise DataError(f"{dataset.path}@{name}: a Dataset's splits are train and val")
    split = dataset.split("train" if name == "train" else "val")
    if split is None:
        raise DataError(f"{dataset.path} has no {name} split")
    texts = [_decode(ids, tokenizer) for ids in split_documents(split, tokenizer, limit)]
    source = f"{dataset.path}@{name}"
    held_out: EvalSplit = "train" if name == "train" else "dev"
    return Texts(source, held_out, dataset.fingerprint, _not_empty(texts, source))


def split_documents(split: Split, tokenizer: Tokenizer, limit: int | None = None) -> Iterator[np.ndarray]:
    """The ids of each document of a split, without separators."""
    separators = [id for id in (tokenizer.eos_id, tokenizer.bos_id) if id is not None]
    stream = Stream(split.shards)
    ends = (
        int(end) + start
        for shard, start in zip(split.shards, stream.starts.tolist(), strict=False)
        for end in shard.ends
    )
    begin, n_documents = 0, 0
    for end in ends:
        ids = stream.read(begin, end)
        begin = end
        ids = ids[~np.isin(ids, separators)]
        if len(ids):
            yield ids
            n_documents += 1
        if n_documents == limit:
            return


def _decode(ids: np.ndarray, tokenizer: Tokenizer) -> Text:
    text = tokenizer.decode_bytes(ids)
    return Text(ids, len(text), len(text.split()))


def _not_empty(texts: list[Text], source: str) -> list[Text]:
    kept = [text for text in texts if len(text.ids)]
    if not kept:
        raise DataError(f"{source} holds no text")
    return kept


def wikitext(text: str) -> str:
    """Undo WikiText's tokenization: GPT-2's "invertible de-tokenizers", in lm-evaluation-harness's form.

    Radford et al. 2019, section 3.1; lm_eval/tasks/wikitext/preprocess_wikitext.py.
    """
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for token, plain in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(token, plain)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    for opening, closing in (r"()", r"[]", "{}", '""', "''"):
        left, right = re.escape(opening), re.escape(closing)
        inside = rf"[^{right}]*?"
        text = re.sub(rf"{left}\s*({inside})\s*{right}", rf"{opening}\1{closing}", text)
    for token, plain in (
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (f" {chr(176)} ", chr(176)),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ):
        text = text.replace(token, plain)
    return text


DETOKENIZERS = {"none": lambda text: text, "wikitext": wikitext}
