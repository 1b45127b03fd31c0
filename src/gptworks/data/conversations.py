"""Conversations to learn answers from: instructions with their outputs, or chats of several turns.

Which of the two a table holds is seen from its columns. What is held out is chosen by a hash of what is asked: it does
not depend on the order of the data, stays when data is added, and never is in training as well.
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
from gptworks.recipe import InstructOptions
from gptworks.text.templates import Message
from gptworks.wording import counted

Conversation = tuple[Message, ...]

INSTRUCTIONS = ("instruction", "prompt", "question", "query")
INPUTS = ("input", "context")
OUTPUTS = ("output", "response", "completion", "answer")
TURNS = ("messages", "conversations", "conversation")
"""Names that people give to these columns, likeliest first."""

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True)
class Conversations:
    """Conversations, in splits."""

    path: Path
    splits: dict[str, list[Conversation]]
    kind: str
    """What the data looks like, in words."""
    remarks: tuple[str, ...]
    """What a person should know of the data."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the conversations, split by split."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for conversation in self.splits[split]:
                digest.update(json.dumps([split, *map(asdict, conversation)]).encode())
        return digest.hexdigest()


def load(path: Path, options: InstructOptions) -> Conversations:
    """The conversations in a file, a zip, a folder of train, validation and test files, or a Hub dataset.

    Raises:
        DataError: no such data, columns that are neither shape, a row that is not whole.
        ConfigError: shares that leave nothing to train on.
    """
    tables = splits.by_name(path, options.limit)
    found: dict[str, list[Conversation]] = {}
    remarks, kinds = [], []
    for split, table in tables.items():
        kind, conversations = _read(table)
        kinds.append(kind)
        found[split] = [
            one for one in conversations if all(m.content.strip() for m in one if m.role != "system")
        ]
        if silent := len(conversations) - len(found[split]):
            remarks.append(
                f"{counted(silent, 'example')} of {table.name} with an empty instruction or answer: left out"
            )
    cut = _held_out(found, options)
    kept, shared = _apart(cut)
    if shared:
        remarks.append(f"{counted(shared, 'example')} left out: a held-out one asks the same")
    if not kept["train"]:
        raise DataError(f"{path} leaves nothing to train on")
    return Conversations(path, kept, kinds[0], tuple(remarks))


def asked(conversation: Conversation) -> str:
    """What makes two conversations the same question: letters' case and spacing do not tell them apart."""
    texts = [text for m in conversation if m.role == "user" for text in (m.content, m.input)]
    return "\0".join(" ".join(text.lower().split()) for text in texts)


def _held_out(
    found: dict[str, list[Conversation]], options: InstructOptions
) -> dict[str, list[Conversation]]:
    """What is not given is taken out of training: the lowest hashes for validation, the highest for the test."""
    val = 0.0 if "val" in found else options.val_fraction
    test = 0.0 if "test" in found else options.test_fraction
    if val + test >= 1:
        raise ConfigError(f"--val-fraction {val} and --test-fraction {test} leave nothing to train on")
    cut: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for conversation in found["train"]:
        place = _place(conversation, options.split_seed)
        cut["val" if place < val else "test" if place >= 1 - test else "train"].append(conversation)
    return {split: found[split] if split in found and split != "train" else cut[split] for split in SPLITS}


def _place(conversation: Conversation, seed: int) -> float:
    """A number in [0, 1) that only what is asked decides."""
    digest = hashlib.sha256(f"{seed}\0{asked(conversation)}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _apart(found: dict[str, list[Conversation]]) -> tuple[dict[str, list[Conversation]], int]:
    """No question in two splits: the test keeps its own, then validation; and how many went."""
    taken: set[str] = set()
    kept: dict[str, list[Conversation]] = {}
    for split in reversed(SPLITS):
        kept[split] = [one for one in found[split] if asked(one) not in taken]
        taken |= {asked(one) for one in kept[split]}
    return kept, sum(map(len, found.values())) - sum(map(len, kept.values()))


def _read(table: Table) -> tuple[str, list[Conversation]]:
    lower = {name.lower(): name for name in table.columns}

    def named(names: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    turns, instruction, output = named(TURNS), named(INSTRUCTIONS), named(OUTPUTS)
    if turns is not None:
        chats = [
            _chat(value, f"{table.name}: row {row}") for row, value in enumerate(table.columns[turns], 1)
        ]
        return f"conversations in {turns}", chats
    if instruction is None or output is None:
        raise DataError(
            f"{table.name} has the columns {', '.join(table.columns)}; wanted are instruction, input (may be missing) "
            "and output, or messages"
        )
    input = named(INPUTS)
    kind = f"instruction in {instruction}, answer in {output}" + (f", input in {input}" if input else "")
    return kind, list(_instructions(table, instruction, input, output))


def _instructions(table: Table, instruction: str, input: str | None, output: str) -> Iterator[Conversation]:
    inputs = table.columns[input] if input else [None] * len(table)
    rows = zip(table.columns[instruction], inputs, table.columns[output], strict=True)
    for row, (asks, about, answers) in enumerate(rows, 1):
        for column, value in ((instruction, asks), (output, answers)):
            if not isinstance(value, str):
                what = "no" if value is None else f"a {type(value).__name__} for"
                raise DataError(f"{table.name}: row {row} has {what} {column}")
        if not isinstance(about, str | None):
            raise DataError(f"{table.name}: row {row} has a {type(about).__name__} for {input}")
        yield Message("user", asks, about if about and about.strip() else ""), Message("assistant", answers)


def _chat(turns: Any, place: str) -> Conversation:
    """The messages of one row, checked: an assistant's after each user's, to the end."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{place} holds no list of messages")
    messages = tuple(_message(turn, place) for turn in turns)
    spoken = messages[1:] if messages[0].role == "system" else messages
    for number, message in enumerate(spoken):
        wanted = ("user", "assistant")[number % 2]
        if message.role != wanted:
            raise DataError(
                f"{place}: message {len(messages) - len(spoken) + number + 1} is the {message.role}'s, "
                f"and the {wanted}'s turn it is"
            )
    if not spoken or spoken[-1].role != "assistant":
        raise DataError(f"{place} ends with the {messages[-1].role}: there is no answer to learn")
    return messages


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DataError(f"{place} holds a message that is no object: {str(turn)[:40]!r}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if role not in ROLES:
        raise DataError(f"{place} has a message of {role!r}; known are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{place} has a message of {role} whose content is no text but {str(content)[:40]!r}")
    return Message(ROLES[role], content)
