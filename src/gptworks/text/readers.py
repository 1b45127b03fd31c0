"""Vocabularies out of other programs' files: tokenizer.json, vocab.json + merges.txt, tiktoken ranks.

Files come from strangers. Whatever is in them, the answer is a Vocabulary or a DataError that says what is
wrong; tokenizers that are not byte-level BPE are refused: their tokens have no bytes of their own.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptworks.errors import DataError
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN, token_bytes
from gptworks.text.vocabulary import MAX_IDS, Vocabulary, from_ranks

MAX_BYTES = 256_000_000
"""No file of a tokenizer is larger; the largest in use have 35 MB."""
END_OF_TEXT = "<|endoftext|>"


def read_tokenizer_json(path: Path) -> Vocabulary:
    """The Vocabulary of a Hugging Face tokenizer.json."""
    content = read_json(path)
    try:
        return _vocabulary(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_vocab_and_merges(vocab: Path, merges: Path) -> Vocabulary:
    """The Vocabulary of GPT-2's two files. Entries that are neither bytes nor merges are special tokens."""
    ids = read_json(vocab)
    lines = read_bytes(merges).decode("utf-8", errors="replace").splitlines()
    rules = [line for line in lines if line and not line.startswith("#version")]
    try:
        ids, pairs = _ids(ids), [_pair(rule) for rule in rules]
        made = {left + right for left, right in pairs}
        specials = {name: id for name, id in ids.items() if len(name) > 1 and name not in made}
        ordinary = {name: id for name, id in ids.items() if name not in specials}
        return _checked(ordinary, pairs, (GPT2_PATTERN,), specials)
    except DataError as error:
        raise DataError(f"{vocab} and {merges.name}: {error}") from None


def read_tiktoken(path: Path) -> Vocabulary:
    """The Vocabulary of a tiktoken rank file, which names no split pattern: GPT-2's are taken to be meant."""
    ranks: dict[bytes, int] = {}
    try:
        for line in read_bytes(path).splitlines():
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except ValueError:
        raise DataError(
            f"{path} is not a tiktoken file: each line holds a token in base64 and its rank"
        ) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(f"{path}: ranks are not 0, 1, 2, ... {len(ranks) - 1:,}")
    try:
        return from_ranks(ranks, (GPT2_PATTERN,), {END_OF_TEXT: len(ranks)})
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_names(path: Path) -> dict[str, str | None]:
    """What a tokenizer_config.json names as end and beginning of text; absent what it does not mention."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object")
    names = {}
    for key in ("eos_token", "bos_token"):
        value = content.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if not isinstance(value, str | None):
            raise DataError(f"{path}: {key} is {type(value).__name__}, not text")
        if key in content:
            names[key] = value
    return names


def read_chat_template(folder: Path) -> str | None:
    """The chat template beside a tokenizer: chat_template.jinja, or what an older tokenizer_config.json holds."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return read_bytes(file).decode("utf-8", errors="replace")
    content = read_json(config) if config.is_file() else {}
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):  # several, by name
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) else None


def read_bytes(path: Path) -> bytes:
    """A whole file of a tokenizer."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} holds {size:,} bytes; no tokenizer is that large")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """A whole JSON file of a tokenizer."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {str(error)[:200]}") from None


def _vocabulary(content: Any) -> Vocabulary:
    content = _object(content, "the file")
    model = _object(content.get("model"), "model")
    _check_model(model)
    _check_decoder(content.get("decoder"))
    ids = _ids(model.get("vocab"))
    rules = model.get("merges")
    if not isinstance(rules, list):
        raise DataError("model.merges is not a list")
    specials, always = _added_tokens(content.get("added_tokens"))
    for name, id in (*specials.items(), *always.items()):
        if ids.pop(name, id) != id:
            raise DataError(f"added token {name!r} has two ids")
    return _checked(
        ids,
        [_pair(rule) for rule in rules],
        _patterns(content.get("pre_tokenizer")),
        specials,
        always=always,
        nfc=_is_nfc(content.get("normalizer")),
        ignore_merges=model.get("ignore_merges") is True,
    )


def _check_model(model: Mapping[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise DataError(f"the model is {model.get('type')!r:.40}; gptworks reads byte-level BPE only")
    for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise DataError(
                f"model.{key} is {model[key]!r:.40}; gptworks reads byte-level BPE only, which has none"
            )


def _check_decoder(decoder: Any) -> None:
    if _type(decoder) != "ByteLevel":
        raise DataError(f"the decoder is {_type(decoder)!r:.40}; gptworks reads byte-level BPE only")


def _is_nfc(normalizer: Any) -> bool:
    if normalizer is None:
        return False
    if _type(normalizer) == "Sequence":
        steps = normalizer.get("normalizers")
        return isinstance(steps, list) and [_is_nfc(step) for step in steps] == [True]
    if _type(normalizer) != "NFC":
        raise DataError(f"normalizer {_type(normalizer)!r:.40} is not supported (NFC or none)")
    return True


def _patterns(node: Any) -> tuple[str, ...]:
    """The expressions that a pre_tokenizer splits by, one after the other; it must end in ByteLevel."""
    steps = list(_flat(node, depth=0))
    if not steps or _type(steps[-1]) != "ByteLevel" or any(_type(step) == "ByteLevel" for step in steps[:-1]):
        raise DataError("pre_tokenizer does not end in ByteLevel; gptworks reads byte-level BPE only")
    patterns = [_pattern(step) for step in steps[:-1]]
    if steps[-1].get("add_prefix_space"):
        raise DataError("pre_tokenizer adds a space before every text, which decoding could not take back")
    if steps[-1].get("use_regex", True) is not False:
        patterns.append(GPT2_PATTERN)
    for pattern in patterns:
        _check_pattern(pattern)
    return tuple(patterns)


def _flat(node: Any, depth: int) -> Iterator[Any]:
    if _type(node) != "Sequence" or depth > 8:
        yield node
        return
    steps = node.get("pretokenizers")
    for step in steps if isinstance(steps, list) else ():
        yield from _flat(step, depth + 1)


def _pattern(step: Any) -> str:
    if _type(step) == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    pattern = step.get("pattern") if _type(step) == "Split" else None
    pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
    if not isinstance(pattern, str):
        raise DataError(
            f"pre_tokenizer {_type(step)!r:.40} is not supported (Split by a Regex, Digits and ByteLevel are)"
        )
    kept = (step.get("behavior"), step.get("invert", False))
    # the known patterns match every character, so keeping only what they match keeps all
    whole = ("Removed", True) if pattern in (GPT2_PATTERN, GPT4_PATTERN) else ("Isolated", False)
    if kept not in (("Isolated", False), whole):
        raise DataError(f"pre_tokenizer Split with behavior {kept[0]!r:.20} is not supported (Isolated is)")
    return pattern


def _check_pattern(pattern: str) -> None:
    if pattern in (GPT2_PATTERN, GPT4_PATTERN):
        return
    from tokenizers import Regex  # only a stranger's pattern needs it

    try:
        Regex(pattern)
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DataError(f"split pattern {pattern!r:.60}: {error}") from None


def _added_tokens(entries: Any) -> tuple[dict[str, int], dict[str, int]]:
    specials: dict[str, int] = {}
    always: dict[str, int] = {}
    if not isinstance(entries, list | None):
        raise DataError("added_tokens is not a list")
    for entry in entries or ():
        entry = _object(entry, "an entry of added_tokens")
        name, special = entry.get("content"), entry.get("special") is True
        if not isinstance(name, str) or not name or name in specials or name in always:
            raise DataError(f"added token {name!r:.60} is not a text of its own")
        if not special and any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise DataError(
                f"added token {name!r:.60} strips or bounds its surroundings, which is not supported"
            )
        (specials if special else always)[name] = _id(entry.get("id"), name)
    return specials, always


def _ids(vocab: Any) -> dict[str, int]:
    return {name: _id(id, name) for name, id in _object(vocab, "the vocabulary").items()}


def _id(id: Any, name: str) -> int:
    if type(id) is not int or not 0 <= id < MAX_IDS:
        raise DataError(f"the id of token {name!r:.60} is {id!r:.40}, not a number from 0 to {MAX_IDS - 1:,}")
    return id


def _pair(rule: Any) -> tuple[str, str]:
    parts = rule.split(" ") if isinstance(rule, str) else rule
    if (
        not isinstance(parts, list)
        or len(parts) != 2
        or not all(isinstance(part, str) and part for part in parts)
    ):
        raise DataError(f"merge {rule!r:.60} is not a pair of tokens")
    return parts[0], parts[1]


def _checked(
    ids: Mapping[str, int],
    pairs: Sequence[tuple[str, str]],
    patterns: tuple[str, ...],
    specials: Mapping[str, int],
    **more: Any,
) -> Vocabulary:
    """A Vocabulary of texts turned into bytes, once every merge and every byte is seen to be in it."""
    in_bytes = {name: token_bytes(name) for name in ids}
    tokens: dict[bytes, int] = {}
    for name, token in in_bytes.items():
        if not token:
            raise DataError(f"token {name!r:.60} is not written in byte-level BPE's characters")
        tokens[token] = ids[name]
    for byte in range(256):
        if bytes([byte]) not in tokens:
            raise DataError(f"no token for byte 0x{byte:02x}, which byte-level BPE needs")
    merges = []
    for left, right in pairs:
        a, b = in_bytes.get(left), in_bytes.get(right)
        if not a or not b or a + b not in tokens:
            raise DataError(
                f"merge {left!r:.60} + {right!r:.60} joins or makes a token that is not in the vocabulary"
            )
        merges.append((a, b))
    vocabulary = Vocabulary(tokens, tuple(merges), patterns, dict(specials), **more)
    used = [*tokens.values(), *specials.values(), *vocabulary.always.values()]
    if len(set(used)) != len(used):
        raise DataError("two tokens have the same id")
    return vocabulary


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what} is not a JSON object")
    return value


def _type(node: Any) -> Any:
    return node.get("type") if isinstance(node, dict) else None
