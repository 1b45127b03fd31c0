"""A tokenizer as llama.cpp reads it: tokens, merges, kinds, ids of beginning and end, and the chat template.

llama.cpp has the split patterns it knows built in, by name; a tokenizer with another pattern has no place there, for
its ids would be others.
"""

from __future__ import annotations

import re

from gguf import GGUFWriter, TokenType

from gptworks.errors import CheckpointError
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN, visible
from gptworks.text.tokenizer import Tokenizer

QWEN2_PATTERN = GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen's: GPT-4's with numbers digit by digit."""

PATTERNS: dict[tuple[str, ...], str] = {
    (GPT2_PATTERN,): "gpt-2",
    (GPT4_PATTERN,): "smaug-bpe",
    (QWEN2_PATTERN,): "qwen2",
}
"""What llama.cpp calls a tokenizer that splits like this and merges by merges alone."""

WHOLE: dict[tuple[str, ...], str] = {(GPT4_PATTERN,): "llama-bpe"}
"""... and one that takes a piece whole where it is a token, whatever the merges say."""


def add(writer: GGUFWriter, tokenizer: Tokenizer) -> list[str]:
    """Put a tokenizer into a file's metadata; returns remarks on what llama.cpp does otherwise.

    Raises:
        CheckpointError: a split pattern that llama.cpp does not know, or no end of text.
    """
    if tokenizer.eos_id is None:
        raise CheckpointError(
            "the tokenizer has no token that ends a text; llama.cpp would take an ordinary one for it. "
            "Name one as eos_token in tokenizer_config.json"
        )
    vocabulary = tokenizer.vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre(tokenizer))
    tokens = [f"[UNUSED{id}]" for id in range(vocabulary.size)]
    types = [TokenType.UNUSED] * vocabulary.size
    for token, id in vocabulary.ids.items():
        tokens[id], types[id] = visible(token), TokenType.NORMAL
    for name, id in vocabulary.specials.items():
        tokens[id], types[id] = name, TokenType.CONTROL
    for name, id in vocabulary.always.items():
        tokens[id], types[id] = name, TokenType.USER_DEFINED
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # an array may not be empty; a merge of what is no token never comes about
    merges = [f"{visible(left)} {visible(right)}" for left, right in vocabulary.merges]
    writer.add_token_merges(merges or ["\x00 \x00"])
    begin = tokenizer.bos_id
    writer.add_bos_token_id(tokenizer.eos_id if begin is None else begin)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(begin is not None)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(without_generation(tokenizer.chat_template))
    if vocabulary.nfc:
        return [
            "llama.cpp does not compose Unicode first (NFC) as the tokenizer does: ids of rare texts differ"
        ]
    return []


def pre(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for the way a tokenizer splits texts.

    Raises:
        CheckpointError: it has none.
    """
    vocabulary = tokenizer.vocabulary
    # where merges lead every token's bytes to that token, taking it whole comes to the same
    merged = not vocabulary.ignore_merges or vocabulary.ranks() is not None
    named = (PATTERNS if merged else WHOLE).get(vocabulary.patterns)
    if named is None:
        shown = " then ".join(vocabulary.patterns)
        raise CheckpointError(
            f"the tokenizer splits texts by {shown!r}, which llama.cpp has no name for: GGUF is written for GPT-2's, "
            "GPT-4's and Qwen's splits; take --to safetensors or onnx"
        )
    return named


def without_generation(template: str) -> str:
    """A chat template that needs no `{% generation %}`, which only transformers knows: conditions that always hold."""
    opened = re.sub(r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", r"{%\1 endif \2%}", opened)
