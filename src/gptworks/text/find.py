"""Find a tokenizer's files: in a folder, a file, tiktoken's cache, the Hugging Face cache or on the Hub."""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from gptworks.errors import DataError
from gptworks.hub import explain_error
from gptworks.messages import nearest
from gptworks.text import readers
from gptworks.text.vocabulary import Vocabulary

GPT2_NAMES = ("gpt2", "r50k_base", "openai-community/gpt2")
"""The common names of OpenAI's vocabulary of 50,257 tokens."""
GPT2_REPOSITORY = "openai-community/gpt2"
GPT2_FINGERPRINT = "c5794794eaa11b643521600b04c55d48f6777c71e1de31e206ce26421670ba51"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
CONFIG = "tokenizer_config.json"

_TIKTOKEN = "https://openaipublic.blob.core.windows.net"
_TIKTOKEN_FILES = (
    f"{_TIKTOKEN}/gpt-2/encodings/main/encoder.json",
    f"{_TIKTOKEN}/gpt-2/encodings/main/vocab.bpe",
    f"{_TIKTOKEN}/encodings/r50k_base.tiktoken",
)

NamedVocabulary = tuple[Vocabulary, dict[str, str | None]]
"""A vocabulary, and the `eos_token` and `bos_token` of the tokenizer_config.json beside it."""


def find(name_or_path: str | Path) -> NamedVocabulary:
    """Find a tokenizer by name or path. `gpt2` is always GPT-2's; write ./gpt2 for a folder of that name.

    Raises:
        DataError: there is no such tokenizer, or it is not byte-level BPE.
    """
    name = str(name_or_path)
    if name in GPT2_NAMES and not isinstance(name_or_path, Path):
        return gpt2(), {}
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return in_folder(path)
    if path.is_file():
        return in_file(path)
    if isinstance(name_or_path, Path) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise DataError(f"no tokenizer at {name}: there is no such file or folder")
    try:
        tokenizer = on_hub(name)
    except DataError as error:
        if not (similar := _similar_folders(path)):
            raise
        raise DataError(f"{name}: no folder here{similar}, and {error}") from None
    if tokenizer is None:
        raise DataError(
            f"no tokenizer {name}: it is not gpt2 or r50k_base, there is no such folder or file"
            f"{_similar_folders(path)}, and the Hugging Face Hub has no model of that name with tokenizer.json or "
            "vocab.json + merges.txt"
        )
    return tokenizer


def _similar_folders(path: Path) -> str:
    """The tokenizer folders next to a path that have a similar name."""
    folders = path.parent.iterdir() if path.parent.is_dir() else ()
    return nearest(path, [folder for folder in folders if (folder / "tokenizer.json").is_file()])


def in_folder(folder: Path) -> NamedVocabulary:
    """The tokenizer in a folder: tokenizer.json, else vocab.json + merges.txt, else a single .tiktoken file."""
    ranks = sorted(folder.glob("*.tiktoken"))
    config = folder / CONFIG
    names = readers.read_names(config) if config.is_file() else {}
    if (folder / "tokenizer.json").is_file():
        return readers.read_tokenizer_json(folder / "tokenizer.json"), names
    for vocab, merges in PAIRS:
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return readers.read_vocab_and_merges(folder / vocab, folder / merges), names
    if len(ranks) == 1:
        return _known_ranks(ranks[0]), names
    raise DataError(
        f"no tokenizer in {folder}: looked for tokenizer.json, vocab.json + merges.txt or one .tiktoken file"
    )


def in_file(path: Path) -> NamedVocabulary:
    """The tokenizer in one file: a tokenizer.json with any name, or tiktoken ranks."""
    if path.suffix == ".tiktoken":
        return _known_ranks(path), {}
    if path.name in {name for pair in PAIRS for name in pair}:
        raise DataError(f"{path} is only one of a tokenizer's two files; pass the folder that holds both")
    config = path.with_name(CONFIG)
    return readers.read_tokenizer_json(path), readers.read_names(config) if config.is_file() else {}


def gpt2() -> Vocabulary:
    """GPT-2's vocabulary, from tiktoken's cache, the Hugging Face cache or the Hub, in this order."""
    cache = tiktoken_cache()
    if cache is not None:
        vocab, merges, ranks = (cache / hashlib.sha1(url.encode()).hexdigest() for url in _TIKTOKEN_FILES)
        if vocab.is_file() and merges.is_file():
            return _check_gpt2(readers.read_vocab_and_merges(vocab, merges), f"{vocab} and {merges.name}")
        if ranks.is_file():
            return _known_ranks(ranks)
    try:
        tokenizer = on_hub(GPT2_REPOSITORY)
    except DataError as error:
        raise DataError(
            f"GPT-2's vocabulary is not in tiktoken's cache ({cache or 'off'}), and {error}"
        ) from None
    if tokenizer is None:
        raise DataError(f"{GPT2_REPOSITORY} on the Hugging Face Hub has no tokenizer")
    return _check_gpt2(tokenizer[0], f"{GPT2_REPOSITORY} on the Hugging Face Hub")


def tiktoken_cache() -> Path | None:
    """The folder of tiktoken's downloads, by the rules of tiktoken/load.py."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def on_hub(repository: str) -> NamedVocabulary | None:
    """The tokenizer of a model on the Hub, or from the cache if that is current; None if the model has none."""
    config = _download(repository, CONFIG)
    names = {} if config is None else readers.read_names(config)
    file = _download(repository, "tokenizer.json")
    if file is not None:
        return readers.read_tokenizer_json(file), names
    vocab, merges = (_download(repository, name) for name in PAIRS[0])
    return None if vocab is None or merges is None else (readers.read_vocab_and_merges(vocab, merges), names)


def _download(repository: str, file: str) -> Path | None:
    """A file of a Hub model, from the cache if the Hub is unreachable; None if there is no such file or model."""
    import huggingface_hub as hub  # imported here because it takes a fifth of a second
    from huggingface_hub import errors

    try:
        # A quick request first: hf_hub_download retries an unreachable Hub for half a minute. It also stores in the
        # cache that a file does not exist, so that error is left to it.
        with suppress(errors.EntryNotFoundError):
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=10)
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # its HTTP library, and so the type of its errors, varies between versions
        absent = (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError)
        if isinstance(error, absent) and not isinstance(error, errors.GatedRepoError):
            return None
        reason = explain_error(error, repository, "model")
    cached = hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:
        return None
    raise DataError(
        f"no tokenizer {repository} here, and {reason}; or pass a folder with tokenizer.json or vocab.json + merges.txt"
    )


def _known_ranks(path: Path) -> Vocabulary:
    return _check_gpt2(readers.read_tiktoken(path), str(path))


def _check_gpt2(vocabulary: Vocabulary, source: str) -> Vocabulary:
    if vocabulary.fingerprint() == GPT2_FINGERPRINT:
        return vocabulary
    raise DataError(
        f"{source} is not GPT-2's vocabulary: delete it if it is damaged; pass other tokenizers as a tokenizer.json"
    )
