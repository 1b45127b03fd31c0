"""The tokenizer: text to ids and back, exactly.

One object for GPT-2's vocabulary and for every other byte-level BPE, whatever file it came from; it is saved
as tokenizer.json beside whatever it made, so that transformers' AutoTokenizer gives the same ids.
Special tokens spelled out in a text are plain text, unless asked for.
"""

import codecs
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.text import engines, readers
from gptworks.text.find import CONFIG, find
from gptworks.text.vocabulary import Vocabulary

EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "</s>")
BOS_NAMES = ("<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<s>")
"""How special tokens are called that end or begin a text, where no tokenizer_config.json says so."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """A byte-level BPE tokenizer. It does not change; a worker process gets it by pickle."""

    vocabulary: Vocabulary
    eos: str | None
    """The special token that ends a text."""
    bos: str | None
    """The special token that begins a text; None also where that is the one that ends it, as in GPT-2."""
    chat_template: str | None = None
    """How a conversation is written (templates.py), where the model was taught one."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Tokenizer":
        """The tokenizer called `gpt2` or `r50k_base`, in a folder, a file, or a Hugging Face Hub model.

        Raises:
            DataError: there is none, or it is not byte-level BPE.
        """
        found = cls.of(*find(name_or_path))
        folder = Path(name_or_path).expanduser()
        template = readers.read_chat_template(folder) if folder.is_dir() else None
        return found if template is None else found.with_template(template)

    @classmethod
    def of(cls, vocabulary: Vocabulary, names: Mapping[str, str | None] | None = None) -> "Tokenizer":
        """A tokenizer whose end and beginning of text are those given, or those with usual names."""
        names = names or {}
        eos, bos = (
            names[key] if key in names and names[key] in {*vocabulary.specials, None} else usual
            for key, usual in _usual_names(vocabulary).items()
        )
        return cls(vocabulary, eos, bos if bos != eos else _usual_names(vocabulary)["bos_token"])

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: the largest id + 1."""
        return self.vocabulary.size

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self.vocabulary.specials)

    @property
    def eos_id(self) -> int | None:
        return None if self.eos is None else self.vocabulary.specials[self.eos]

    @property
    def bos_id(self) -> int | None:
        return None if self.bos is None else self.vocabulary.specials[self.bos]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of tokens, merges' order, split patterns and special tokens."""
        return self.vocabulary.fingerprint()

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Ids of one text; its literal special tokens count as such only with `specials`."""
        if not specials or not self.vocabulary.specials:
            return self._ids(text)
        ids: list[int] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            ids += self._ids(text[end : match.start()])
            ids.append(self.vocabulary.specials[match.group()])
            end = match.end()
        return ids + self._ids(text[end:])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint32 ids of each text as plain text, by the fastest exact engine, in the calling thread."""
        encode = self._fastest[1]
        return [encode(clean(text)) for text in texts]

    @property
    def engine(self) -> str:
        """The library that encode_batch uses: gigatoken, tiktoken or tokenizers."""
        return self._fastest[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, special tokens spelled out."""
        return b"".join(
            [self.token_bytes(id) for id in (ids.tolist() if isinstance(ids, np.ndarray) else ids)]
        )

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token.

        Raises:
            ValueError: no token has this id.
        """
        token = self._table[id] if 0 <= id < len(self._table) else None
        if token is None:
            raise ValueError(f"no token has id {id}; ids go from 0 to {len(self._table) - 1}")
        return token

    def with_special_tokens(self, names: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with more special tokens after its last id: gpt2 and `<|bos|>` make 50,258."""
        kept = {key: name for key, name in self._names().items() if name is not None}
        return replace(
            Tokenizer.of(self.vocabulary.with_specials(names), kept), chat_template=self.chat_template
        )

    def with_template(self, chat_template: str) -> "Tokenizer":
        """The same tokenizer, writing conversations this way."""
        return replace(self, chat_template=chat_template)

    def with_end(self, eos: str) -> "Tokenizer":
        """The same tokenizer, with another of its special tokens as the end of a text."""
        return replace(self, eos=eos, bos=None if self.bos == eos else self.bos)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and a chat template, which AutoTokenizer reads."""
        # for a GPT2Tokenizer, transformers 5 would put its own split pattern in place of ours
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        folder.mkdir(parents=True, exist_ok=True)
        whole = self.vocabulary.tokenizer_json()
        _write(folder / "tokenizer.json", json.dumps(whole, ensure_ascii=False))
        _write(folder / CONFIG, json.dumps(config | self._names(), ensure_ascii=False))
        if self.chat_template is not None:
            _write(folder / "chat_template.jinja", self.chat_template)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} ids, {self.fingerprint[:12]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: self.__dict__[key] for key in ("vocabulary", "eos", "bos", "chat_template")}
        return state | {"_proven": self.engine} if "_fastest" in self.__dict__ else state

    def _names(self) -> dict[str, str | None]:
        return {"eos_token": self.eos, "bos_token": self.bos}

    @property
    def _identity(self) -> tuple[str, str | None, str | None]:
        return self.fingerprint, self.eos, self.bos

    @cached_property
    def _table(self) -> list[bytes | None]:
        return self.vocabulary.bytes_by_id()

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.vocabulary.specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    @cached_property
    def _exact(self) -> engines.Encode:
        return engines.by_tokenizers(self.vocabulary)

    @cached_property
    def _fastest(self) -> tuple[str, engines.Encode]:
        return engines.fastest(self.vocabulary, lambda: self._exact, self.__dict__.get("_proven", ""))

    def _ids(self, text: str) -> list[int]:
        return self._exact(clean(text)).tolist()


class StreamDecoder:
    """Text of ids that come one at a time: pieces that never cut a character, together `decode`'s text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """What can be said after one more token; may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def end(self) -> str:
        """What is left: U+FFFD for a character that was never finished."""
        return self._decoder.decode(b"", final=True)


def clean(text: str) -> str:
    """The text; lone surrogates, which JSON's escapes can make, become U+FFFD as in tiktoken."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _usual_names(vocabulary: Vocabulary) -> dict[str, str | None]:
    usual = {"eos_token": EOS_NAMES, "bos_token": BOS_NAMES}
    return {key: next((n for n in names if n in vocabulary.specials), None) for key, names in usual.items()}


def _write(path: Path, text: str) -> None:
    """Write beside, flush to the disk, rename. What a kill leaves beside is written over by the next attempt."""
    beside = path.with_name(f".{path.name}.draft")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
