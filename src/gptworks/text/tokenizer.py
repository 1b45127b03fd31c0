"""The tokenizer: text to ids and back, without loss.

One class serves GPT-2's vocabulary and any other byte-level BPE, whatever file it is loaded from. It is saved as
tokenizer.json in every dataset and checkpoint, so that transformers' AutoTokenizer returns the same ids. A special
token spelled out in a text is plain text unless you ask otherwise.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptworks import files
from gptworks.text import engines, readers
from gptworks.text.find import CONFIG, find
from gptworks.text.vocabulary import Vocabulary

EOS_NAMES = ("<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "</s>")
BOS_NAMES = ("<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<s>")
"""Common names of the tokens that end and begin a text, used if no tokenizer_config.json names them."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """A byte-level BPE tokenizer. Immutable, and picklable for worker processes."""

    vocabulary: Vocabulary
    eos: str | None
    """The special token that ends a text."""
    bos: str | None
    """The special token that begins a text; None also if it is the same as `eos`, as in GPT-2."""
    chat_template: str | None = None
    """Jinja source of the chat template (templates.py); None for a base model."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Tokenizer":
        """Load `gpt2` or `r50k_base`, or the tokenizer in a folder, a file or a Hugging Face Hub model.

        Raises:
            DataError: there is no such tokenizer, or it is not byte-level BPE.
        """
        tokenizer = cls.from_vocabulary(*find(name_or_path))
        folder = Path(name_or_path).expanduser()
        template = readers.read_chat_template(folder) if folder.is_dir() else None
        return tokenizer if template is None else tokenizer.with_template(template)

    @classmethod
    def from_vocabulary(
        cls, vocabulary: Vocabulary, names: Mapping[str, str | None] | None = None
    ) -> "Tokenizer":
        """Make a tokenizer with the `eos_token` and `bos_token` in `names`, or else those with a common name."""
        names, defaults = names or {}, _default_names(vocabulary)
        eos, bos = (
            names[key] if key in names and names[key] in {*vocabulary.specials, None} else default
            for key, default in defaults.items()
        )
        return cls(vocabulary, eos, bos if bos != eos else defaults["bos_token"])

    @cached_property
    def vocab_size(self) -> int:
        """The largest id + 1, special tokens included."""
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
        """SHA-256 of tokens, order of merges, split patterns and special tokens."""
        return self.vocabulary.fingerprint()

    def encode(self, text: str, *, specials: bool = False) -> list[int]:
        """Encode one text; special tokens spelled out in it are recognized only with `specials`."""
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
        """Encode texts as plain text, with the fastest exact engine, in the calling thread; uint32 ids of each."""
        encode = self._fastest[1]
        return [encode(clean(text)) for text in texts]

    @property
    def engine(self) -> str:
        """The library that encode_batch uses: gigatoken, tiktoken or tokenizers."""
        return self._fastest[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD."""
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
            raise ValueError(f"no token has id {id}; ids range from 0 to {len(self._table) - 1}")
        return token

    def byte_lengths(self, *, specials: bool = True) -> np.ndarray:
        """(V,) bytes of each token, 0 for unused ids. Without `specials`, special tokens count 0 bytes as well."""
        lengths = np.array([len(token or b"") for token in self._table], np.int64)
        if not specials:
            lengths[list(self.vocabulary.specials.values())] = 0
        return lengths

    def with_special_tokens(self, names: Sequence[str]) -> "Tokenizer":
        """A copy with more special tokens after the last id: gpt2 plus `<|bos|>` has 50,258 ids."""
        kept = {key: name for key, name in self._names().items() if name is not None}
        grown = Tokenizer.from_vocabulary(self.vocabulary.with_specials(names), kept)
        return replace(grown, chat_template=self.chat_template)

    def with_template(self, chat_template: str) -> "Tokenizer":
        """A copy with this chat template."""
        return replace(self, chat_template=chat_template)

    def with_eos(self, eos: str) -> "Tokenizer":
        """A copy with another of its special tokens as end of text."""
        return replace(self, eos=eos, bos=None if self.bos == eos else self.bos)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template for transformers' AutoTokenizer."""
        # with GPT2Tokenizer as the class, transformers 5 would replace our split pattern with its own
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        folder.mkdir(parents=True, exist_ok=True)
        content = self.vocabulary.tokenizer_json()
        files.write_text(folder / "tokenizer.json", json.dumps(content, ensure_ascii=False))
        files.write_text(folder / CONFIG, json.dumps(config | self._names(), ensure_ascii=False))
        if self.chat_template is not None:
            files.write_text(folder / "chat_template.jinja", self.chat_template)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} ids, {self.fingerprint[:12]})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __getstate__(self) -> dict[str, Any]:
        state = {key: self.__dict__[key] for key in ("vocabulary", "eos", "bos", "chat_template")}
        return state | {"_verified": self.engine} if "_fastest" in self.__dict__ else state

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
        return engines.fastest(self.vocabulary, lambda: self._exact, self.__dict__.get("_verified", ""))

    def _ids(self, text: str) -> list[int]:
        return self._exact(clean(text)).tolist()


class StreamDecoder:
    """Decodes ids one at a time into complete characters; the parts together equal `decode`'s text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that this token completes; may be empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def end(self) -> str:
        """The rest: U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)


def clean(text: str) -> str:
    """Replace lone surrogates, which JSON escapes can produce, with U+FFFD, as tiktoken does."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _default_names(vocabulary: Vocabulary) -> dict[str, str | None]:
    common = {"eos_token": EOS_NAMES, "bos_token": BOS_NAMES}
    return {key: next((n for n in names if n in vocabulary.specials), None) for key, names in common.items()}
