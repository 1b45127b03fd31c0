"""Conversations for instruction tuning: instructions with their outputs, or chats of several turns.

The columns of a table tell which of the two it holds. A hash of the prompts decides what is held out: the choice does
not depend on the order of the data, stays the same when data is added, and no prompt is in two splits.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptworks.data import splits
from gptworks.data.examples import SPLITS
from gptworks.data.tables import Table
from gptworks.errors import ConfigError, DataError
from gptworks.messages import counted
from gptworks.recipe import InstructOptions
from gptworks.text.templates import Message

Conversation = tuple[Message, ...]

INSTRUCTIONS = ("instruction", "prompt", "question", "query")
INPUTS = ("input", "context")
OUTPUTS = ("output", "response", "completion", "answer")
TURNS = ("messages", "conversations", "conversation")
"""Common names of these columns, in order of preference."""

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Conversations:
    """Conversations in splits."""

    path: Path
    splits: dict[str, list[Conversation]]
    kind: str
    """The columns that are used, in words."""
    remarks: tuple[str, ...]
    """What a person should know about the data."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the conversations, split by split."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for conversation in self.splits[split]:
                digest.update(json.dumps([split, *map(asdict, conversation)]).encode())
        return digest.hexdigest()


def load(path: Path, options: InstructOptions) -> Conversations:
    """The conversations in a file, a zip, a folder of train, validation and test files, or a Hub dataset.

    Raises:
        DataError: the data does not exist, its columns are not recognised, or a row is incomplete.
        ConfigError: --val-fraction and --test-fraction leave nothing to train on.
    """
    found: dict[str, list[Conversation]] = {}
    remarks, kinds = [], []
    for split, table in splits.read_splits(path, options.limit).items():
        kind, conversations = _read(table)
        kinds.append(kind)
        found[split] = [c for c in conversations if all(m.content.strip() for m in c if m.role != "system")]
        if n_empty := len(conversations) - len(found[split]):
            examples = f"{counted(n_empty, 'example')} of {table.name}"
            remarks.append(f"dropped {examples} with an empty instruction or answer")
    kept, n_shared = _drop_shared(_hold_out(found, options))
    if n_shared:
        remarks.append(f"dropped {counted(n_shared, 'example')} with the same prompt as a held-out example")
    if not kept["train"]:
        raise DataError(f"{path} leaves nothing to train on")
    return Conversations(path, kept, kinds[0], tuple(remarks))


def prompt_key(conversation: Conversation) -> str:
    """The text of all prompts; two conversations with the same key ask the same. Ignores case and spacing."""
    texts = [text for m in conversation if m.role == "user" for text in (m.content, m.input)]
    return "\0".join(" ".join(text.lower().split()) for text in texts)


def _hold_out(
    found: dict[str, list[Conversation]], options: InstructOptions
) -> dict[str, list[Conversation]]:
    """Take missing splits out of training: the lowest hashes for validation, the highest for the test."""
    val = 0.0 if "val" in found else options.val_fraction
    test = 0.0 if "test" in found else options.test_fraction
    if val + test >= 1:
        raise ConfigError(f"--val-fraction {val} and --test-fraction {test} leave nothing to train on")
    parts: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for conversation in found["train"]:
        place = _hash(conversation, options.split_seed)
        parts["val" if place < val else "test" if place >= 1 - test else "train"].append(conversation)
    return {split: found[split] if split in found and split != "train" else parts[split] for split in SPLITS}


def _hash(conversation: Conversation, seed: int) -> float:
    """A number in [0, 1) that depends on the prompts alone."""
    digest = hashlib.sha256(f"{seed}\0{prompt_key(conversation)}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _drop_shared(found: dict[str, list[Conversation]]) -> tuple[dict[str, list[Conversation]], int]:
    """Keep each prompt in one split, test before validation before training; also returns how many were dropped."""
    taken: set[str] = set()
    kept: dict[str, list[Conversation]] = {}
    for split in reversed(SPLITS):
        kept[split] = [c for c in found[split] if prompt_key(c) not in taken]
        taken |= {prompt_key(c) for c in kept[split]}
    return kept, sum(map(len, found.values())) - sum(map(len, kept.values()))


def _read(table: Table) -> tuple[str, list[Conversation]]:
    lower = {name.lower(): name for name in table.columns}

    def named(names: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    turns, instruction, output = named(TURNS), named(INSTRUCTIONS), named(OUTPUTS)
    if turns is not None:
        chats = [_chat(value, f"{table.name}: row {n}") for n, value in enumerate(table.columns[turns], 1)]
        return f"conversations in {turns}", chats
    if instruction is None or output is None:
        raise DataError(
            f"{table.name} has the columns {', '.join(table.columns)}; it needs instruction, output and optionally "
            "input, or messages"
        )
    input = named(INPUTS)
    kind = f"instruction in {instruction}, answer in {output}" + (f", input in {input}" if input else "")
    return kind, list(_instructions(table, instruction, input, output))


def _instructions(table: Table, instruction: str, input: str | None, output: str) -> Iterator[Conversation]:
    inputs = table.columns[input] if input else [None] * len(table)
    rows = zip(table.columns[instruction], inputs, table.columns[output], strict=True)
    for row, (prompt, context, answer) in enumerate(rows, 1):
        for column, value in ((instruction, prompt), (output, answer)):
            if not isinstance(value, str):
                problem = "no" if value is None else f"a {type(value).__name__} for"
                raise DataError(f"{table.name}: row {row} has {problem} {column}")
        if not isinstance(context, str | None):
            raise DataError(f"{table.name}: row {row} has a {type(context).__name__} for {input}")
        context = context if context and context.strip() else ""
        yield Message("user", prompt, context), Message("assistant", answer)


def _chat(turns: Any, place: str) -> Conversation:
    """The messages of one row, checked: user and assistant alternate, and the assistant comes last."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place} is not a list of messages")
    messages = tuple(_message(turn, place) for turn in turns)
    spoken = messages[1:] if messages[0].role == "system" else messages
    for number, message in enumerate(spoken):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            position = len(messages) - len(spoken) + number + 1
            raise DataError(
                f"{place}: message {position} is from the {message.role}, expected the {expected}"
            )
    if not spoken or spoken[-1].role != "assistant":
        raise DataError(f"{place} ends with the {messages[-1].role}: there is no answer to learn")
    return messages


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{place} has a message that is not an object: {str(turn)[:40]!r}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if role not in ROLES:
        raise DataError(f"{place} has a message with role {role!r}; use one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{place} has a message from {role} whose content is not text: {str(content)[:40]!r}")
    return Message(ROLES[role], content)
