"""Where a tokenizer's files are: a folder, a file, tiktoken's cache, the Hugging Face cache or the Hub."""

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from gptworks.errors import DataError
from gptworks.hub import meaning
from gptworks.text import readers
from gptworks.text.vocabulary import Vocabulary
from gptworks.wording import nearest

GPT2_NAMES = ("gpt2", "r50k_base", "openai-community/gpt2")
"""OpenAI's vocabulary of 50,257, under the names people know."""
GPT2_REPOSITORY = "openai-community/gpt2"
GPT2_FINGERPRINT = "c5794794eaa11b643521600b04c55d48f6777c71e1de31e206ce26421670ba51"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
CONFIG = "tokenizer_config.json"

_TIKTOKEN = "https://openaipublic.blob.core.windows.net/"
_TIKTOKEN_GPT2 = (
    _TIKTOKEN + "gpt-2/encodings/main/encoder.json",
    _TIKTOKEN + "gpt-2/encodings/main/vocab.bpe",
)
_TIKTOKEN_R50K = _TIKTOKEN + "encodings/r50k_base.tiktoken"

Found = tuple[Vocabulary, dict[str, str | None]]
"""A vocabulary, and the names that a tokenizer_config.json beside it gives to end and beginning of text."""


def find(name_or_path: str | Path) -> Found:
    """The tokenizer that a name or path means. `gpt2` is GPT-2 even beside a folder so called (./gpt2)."""
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
        found = on_hub(name)
    except DataError as error:
        if not (beside := _near(path)):
            raise
        raise DataError(f"{name}: no folder here{beside}, and {error}") from None
    if found is None:
        raise DataError(
            f"no tokenizer {name}: not gpt2 or r50k_base, no folder or file here{_near(path)}, and no model "
            f"of that name with tokenizer.json or vocab.json + merges.txt on the Hugging Face Hub"
        )
    return found


def _near(path: Path) -> str:
    """The tokenizers beside a path that are named almost like it."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return nearest(path, [one for one in beside if (one / "tokenizer.json").is_file()])


def in_folder(folder: Path) -> Found:
    """The tokenizer in a folder: tokenizer.json, else vocab.json + merges.txt, else one .tiktoken file."""
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
        f"no tokenizer in {folder}: looked for tokenizer.json, vocab.json + merges.txt, one .tiktoken file"
    )


def in_file(path: Path) -> Found:
    """The tokenizer in one file: a tokenizer.json of any name, or tiktoken ranks."""
    if path.suffix == ".tiktoken":
        return _known_ranks(path), {}
    if path.name in {name for pair in PAIRS for name in pair}:
        raise DataError(f"{path} is half of a tokenizer; give its folder")
    config = path.with_name(CONFIG)
    return readers.read_tokenizer_json(path), readers.read_names(config) if config.is_file() else {}


def gpt2() -> Vocabulary:
    """GPT-2's vocabulary from tiktoken's cache, the Hugging Face cache or the Hub, whichever has it first."""
    cache = tiktoken_cache()
    files = (
        []
        if cache is None
        else [cache / hashlib.sha1(url.encode()).hexdigest() for url in (*_TIKTOKEN_GPT2, _TIKTOKEN_R50K)]
    )
    if files and files[0].is_file() and files[1].is_file():
        return _is_gpt2(readers.read_vocab_and_merges(files[0], files[1]), f"{files[0]} and {files[1].name}")
    if files and files[2].is_file():
        return _known_ranks(files[2])
    try:
        found = on_hub(GPT2_REPOSITORY)
    except DataError as error:
        raise DataError(
            f"GPT-2's vocabulary is not in tiktoken's cache ({cache or 'off'}), and {error}"
        ) from None
    if found is None:
        raise DataError(f"{GPT2_REPOSITORY} on the Hugging Face Hub holds no tokenizer")
    return _is_gpt2(found[0], f"{GPT2_REPOSITORY} on the Hugging Face Hub")


def tiktoken_cache() -> Path | None:
    """The folder where tiktoken keeps what it downloaded, by the rules of tiktoken/load.py."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def on_hub(repository: str) -> Found | None:
    """The tokenizer of a model on the Hub, by its cache where that is current; None where there is none."""
    config = _download(repository, CONFIG)
    names = {} if config is None else readers.read_names(config)
    whole = _download(repository, "tokenizer.json")
    if whole is not None:
        return readers.read_tokenizer_json(whole), names
    vocab, merges = (_download(repository, file) for file in PAIRS[0])
    return None if vocab is None or merges is None else (readers.read_vocab_and_merges(vocab, merges), names)


def _download(repository: str, file: str) -> Path | None:
    """A file of a Hub model, from the cache if the Hub is away; None if there is no such file or model."""
    import huggingface_hub as hub  # here: it takes a fifth of a second
    from huggingface_hub import errors

    try:
        with suppress(
            errors.EntryNotFoundError
        ):  # asked once more below, so that the cache remembers the answer
            # one quick question first: hf_hub_download would try an absent Hub for half a minute
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=10)
        return Path(hub.hf_hub_download(repository, file))
    except Exception as error:  # its HTTP library changes from time to time, and so what it raises
        absent = (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError)
        if isinstance(error, absent) and not isinstance(error, errors.GatedRepoError):
            return None
        reason = meaning(error, repository, "model")
    cached = hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:
        return None
    raise DataError(
        f"no tokenizer {repository} here, and {reason}; "
        f"or give a folder with tokenizer.json or vocab.json + merges.txt"
    )


def _known_ranks(path: Path) -> Vocabulary:
    return _is_gpt2(readers.read_tiktoken(path), str(path))


def _is_gpt2(vocabulary: Vocabulary, where: str) -> Vocabulary:
    if vocabulary.fingerprint() == GPT2_FINGERPRINT:
        return vocabulary
    raise DataError(
        f"{where} is not GPT-2's vocabulary: delete it if damaged; give other tokenizers as a tokenizer.json"
    )
