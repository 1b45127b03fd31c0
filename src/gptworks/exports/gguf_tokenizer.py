"""Write a tokenizer into a GGUF file: tokens, merges, token types, ids of bos and eos, and the chat template.

llama.cpp has a fixed list of split patterns, referred to by name. A tokenizer with another pattern is refused, because
llama.cpp would return different ids.
"""

from __future__ import annotations

import re

from gguf import GGUFWriter, TokenType

from gptworks.errors import CheckpointError
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN, bytes_to_unicode
from gptworks.text.tokenizer import Tokenizer

QWEN2_PATTERN = GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen's pattern: GPT-4's with single digits."""

PATTERNS: dict[tuple[str, ...], str] = {
    (GPT2_PATTERN,): "gpt-2",
    (GPT4_PATTERN,): "smaug-bpe",
    (QWEN2_PATTERN,): "qwen2",
}
"""llama.cpp's names of split patterns, for tokenizers that always apply their merges."""

IGNORE_MERGES_PATTERNS: dict[tuple[str, ...], str] = {(GPT4_PATTERN,): "llama-bpe"}
"""The same for tokenizers with `ignore_merges`."""


def add(writer: GGUFWriter, tokenizer: Tokenizer) -> list[str]:
    """Add a tokenizer to the metadata of a file; returns remarks about differences in llama.cpp.

    Raises:
        CheckpointError: llama.cpp does not know the split pattern, or the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_id is None:
        raise CheckpointError(
            "the tokenizer has no end-of-text token, and llama.cpp would use an ordinary token instead; "
            "set eos_token in tokenizer_config.json"
        )
    vocabulary = tokenizer.vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pattern_name(tokenizer))
    tokens = [f"[UNUSED{id}]" for id in range(vocabulary.size)]
    types = [TokenType.UNUSED] * vocabulary.size
    for token, id in vocabulary.ids.items():
        tokens[id], types[id] = bytes_to_unicode(token), TokenType.NORMAL
    for name, id in vocabulary.specials.items():
        tokens[id], types[id] = name, TokenType.CONTROL
    for name, id in vocabulary.always.items():
        tokens[id], types[id] = name, TokenType.USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # an array must not be empty, and a merge of nonexistent tokens never applies
    merges = [f"{bytes_to_unicode(left)} {bytes_to_unicode(right)}" for left, right in vocabulary.merges]
    writer.add_token_merges(merges or ["\x00 \x00"])
    bos_id = tokenizer.bos_id
    writer.add_bos_token_id(tokenizer.eos_id if bos_id is None else bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(bos_id is not None)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(without_generation(tokenizer.chat_template))
    if vocabulary.nfc:
        return ["llama.cpp does not apply the tokenizer's NFC normalization, so the ids of some texts differ"]
    return []


def pattern_name(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the split pattern of a tokenizer.

    Raises:
        CheckpointError: it has none.
    """
    vocabulary = tokenizer.vocabulary
    # if the merges of every token's bytes end in that token, `ignore_merges` makes no difference
    use_merges = not vocabulary.ignore_merges or vocabulary.ranks() is not None
    name = (PATTERNS if use_merges else IGNORE_MERGES_PATTERNS).get(vocabulary.patterns)
    if name is None:
        raise CheckpointError(
            f"llama.cpp does not support the tokenizer's split pattern {' then '.join(vocabulary.patterns)!r}, only "
            "those of GPT-2, GPT-4 and Qwen; use --to safetensors or onnx"
        )
    return name


def without_generation(template: str) -> str:
    """Replace `{% generation %}`, which only transformers knows, with `{% if true %}`."""
    opened = re.sub(r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", r"{%\1 endif \2%}", opened)
