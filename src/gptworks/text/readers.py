"""Read vocabularies from the files of other programs: tokenizer.json, vocab.json + merges.txt, tiktoken ranks.

The files are untrusted. Any content results in a Vocabulary or in a DataError that names the problem. Tokenizers other
than byte-level BPE are refused, because their tokens do not map to bytes.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptworks.errors import DataError
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN, unicode_to_bytes
from gptworks.text.vocabulary import MAX_IDS, Vocabulary, from_ranks

MAX_BYTES = 256_000_000
"""Limit on the size of a tokenizer's file; the largest in use have 35 MB."""
END_OF_TEXT = "<|endoftext|>"


def read_tokenizer_json(path: Path) -> Vocabulary:
    """Read a Hugging Face tokenizer.json."""
    content = read_json(path)
    try:
        return _vocabulary(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_vocab_and_merges(vocab: Path, merges: Path) -> Vocabulary:
    """Read GPT-2's two files. Entries that are neither single bytes nor merges are special tokens."""
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
    """Read a tiktoken rank file. It names no split pattern, so GPT-2's pattern is assumed."""
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
        raise DataError(f"{path}: the ranks are not 0, 1, 2, ... {len(ranks) - 1:,}")
    try:
        return from_ranks(ranks, (GPT2_PATTERN,), {END_OF_TEXT: len(ranks)})
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_names(path: Path) -> dict[str, str | None]:
    """The `eos_token` and `bos_token` of a tokenizer_config.json, if it has these keys."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object")
    names = {}
    for key in ("eos_token", "bos_token"):
        value = content.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if not isinstance(value, str | None):
            raise DataError(f"{path}: {key} is a {type(value).__name__}, not a string")
        if key in content:
            names[key] = value
    return names


def read_chat_template(folder: Path) -> str | None:
    """The chat template in a folder: chat_template.jinja, or the one in an older tokenizer_config.json."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return read_bytes(file).decode("utf-8", errors="replace")
    content = read_json(config) if config.is_file() else {}
    template = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(template, list):  # several named templates
        default = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = default[0].get("template") if default else None
    return template if isinstance(template, str) else None


def read_bytes(path: Path) -> bytes:
    """Read a file of a tokenizer, up to MAX_BYTES."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} holds {size:,} bytes; the limit for a tokenizer is {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file of a tokenizer."""
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {str(error)[:200]}") from None


def _vocabulary(content: Any) -> Vocabulary:
    content = _object(content, "the file")
    model = _object(content.get("model"), "model")
    _check_model(model)
    if (decoder := _type(content.get("decoder"))) != "ByteLevel":
        raise DataError(f"the decoder is {decoder!r:.40}; gptworks reads byte-level BPE only")
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
        raise DataError(f"the model type is {model.get('type')!r:.40}; gptworks reads byte-level BPE only")
    for key in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise DataError(
                f"model.{key} is {model[key]!r:.40}; gptworks reads byte-level BPE only, without it"
            )


def _is_nfc(normalizer: Any) -> bool:
    if normalizer is None:
        return False
    if _type(normalizer) == "Sequence":
        steps = normalizer.get("normalizers")
        return isinstance(steps, list) and [_is_nfc(step) for step in steps] == [True]
    if _type(normalizer) != "NFC":
        raise DataError(f"normalizer {_type(normalizer)!r:.40} is not supported (only NFC or none)")
    return True


def _patterns(node: Any) -> tuple[str, ...]:
    """The regular expressions that a pre_tokenizer splits by, in order; it must end in ByteLevel."""
    steps = list(_flat(node, depth=0))
    if not steps or _type(steps[-1]) != "ByteLevel" or any(_type(step) == "ByteLevel" for step in steps[:-1]):
        raise DataError("pre_tokenizer does not end in ByteLevel; gptworks reads byte-level BPE only")
    patterns = [_pattern(step) for step in steps[:-1]]
    if steps[-1].get("add_prefix_space"):
        raise DataError(
            "pre_tokenizer adds a space before every text, so decoding would not return the original"
        )
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
            f"pre_tokenizer {_type(step)!r:.40} is not supported (only Split by a Regex, Digits and ByteLevel)"
        )
    behavior = (step.get("behavior"), step.get("invert", False))
    # the known patterns match every character, so removing the rest removes nothing
    equivalent = ("Removed", True) if pattern in (GPT2_PATTERN, GPT4_PATTERN) else ("Isolated", False)
    if behavior not in (("Isolated", False), equivalent):
        raise DataError(
            f"pre_tokenizer Split with behavior {behavior[0]!r:.20} is not supported (only Isolated is)"
        )
    return pattern


def _check_pattern(pattern: str) -> None:
    if pattern in (GPT2_PATTERN, GPT4_PATTERN):
        return
    from tokenizers import Regex  # imported here because only unknown patterns need it

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
            raise DataError(f"added token {name!r:.60} is empty, a duplicate or not a string")
        if not special and any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise DataError(
                f"added token {name!r:.60} sets lstrip, rstrip or single_word, which is not supported"
            )
        (specials if special else always)[name] = _id(entry.get("id"), name)
    return specials, always


def _ids(vocab: Any) -> dict[str, int]:
    return {name: _id(id, name) for name, id in _object(vocab, "the vocabulary").items()}


def _id(id: Any, name: str) -> int:
    if type(id) is not int or not 0 <= id < MAX_IDS:
        raise DataError(
            f"the id of token {name!r:.60} is {id!r:.40}, not an integer from 0 to {MAX_IDS - 1:,}"
        )
    return id


def _pair(rule: Any) -> tuple[str, str]:
    parts = rule.split(" ") if isinstance(rule, str) else rule
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) and p for p in parts)):
        raise DataError(f"merge {rule!r:.60} is not a pair of tokens")
    return parts[0], parts[1]


def _checked(
    ids: Mapping[str, int],
    pairs: Sequence[tuple[str, str]],
    patterns: tuple[str, ...],
    specials: Mapping[str, int],
    **more: Any,
) -> Vocabulary:
    """Convert tokens to bytes and check that all single bytes and all merges are in the vocabulary."""
    in_bytes = {name: unicode_to_bytes(name) for name in ids}
    tokens: dict[bytes, int] = {}
    for name, token in in_bytes.items():
        if not token:
            raise DataError(f"token {name!r:.60} has characters that byte-level BPE does not use")
        tokens[token] = ids[name]
    for byte in range(256):
        if bytes([byte]) not in tokens:
            raise DataError(f"no token for byte 0x{byte:02x}, which byte-level BPE needs")
    merges = []
    for left, right in pairs:
        a, b = in_bytes.get(left), in_bytes.get(right)
        if not a or not b or a + b not in tokens:
            raise DataError(
                f"merge {left!r:.60} + {right!r:.60}: a part or the result is not in the vocabulary"
            )
        merges.append((a, b))
    vocabulary = Vocabulary(tokens, tuple(merges), patterns, dict(specials), **more)
    used = [*tokens.values(), *specials.values(), *vocabulary.always.values()]
    if len(set(used)) != len(used):
        raise DataError("two tokens have the same id")
    return vocabulary


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{name} is not a JSON object")
    return value


def _type(node: Any) -> Any:
    return node.get("type") if isinstance(node, dict) else None
