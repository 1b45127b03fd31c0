"""Labelled texts for fine-tuning: which columns, which labels, which examples train and which are held out.

Splits that are given are kept (a folder or zip with train, validation and test); others are made from a seed, every
label spread evenly over them. Nothing depends on the order in which anything runs.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.data import splits
from gptworks.data.columns import Choice, choose
from gptworks.data.tables import Table
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import ClassifyOptions
from gptworks.wording import beginning, counted

SPLITS = ("train", "val", "test")
FEW = 3
"""Labels that an error names."""
MANY = 20
"""More names of classes than these, if they are numbers, are asked about."""
MISSING = frozenset({"na", "n/a", "nan", "none", "null"})
"""What programs write where there is no value."""


@dataclass(frozen=True)
class Example:
    """A text, or two, and what is to be said of it."""

    text: str
    pair: str | None
    label: str | float


@dataclass(frozen=True)
class Examples:
    """Labelled texts, in splits."""

    path: Path
    splits: dict[str, list[Example]]
    labels: tuple[str, ...]
    """Names of the classes, in the order of the model's outputs; none where a number is predicted."""
    columns: Choice
    remarks: tuple[str, ...]
    """What a person should know of the data."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the examples, split by split."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for example in self.splits[split]:
                digest.update(json.dumps([split, example.text, example.pair, example.label]).encode())
        return digest.hexdigest()

    def targets(self, split: str) -> np.ndarray:
        """Of each example of a split: the number of its class, or the number to predict."""
        if not self.labels:
            return np.array([example.label for example in self.splits[split]], dtype=np.float32)
        numbers = {name: number for number, name in enumerate(self.labels)}
        return np.array([numbers[str(example.label)] for example in self.splits[split]], dtype=np.int64)


def load(path: Path, options: ClassifyOptions) -> Examples:
    """The examples in a file, a zip, a folder of train, validation and test files, or a Hub dataset (`hf:NAME`).

    Raises:
        DataError: no such data, no such column, one class only, labels that training never sees.
        ConfigError: shares that leave nothing to train on.
    """
    given = splits.by_name(path, options.limit)
    columns = choose(given["train"], options)
    unlabelled = _unlabelled(given, columns)
    remarks = [f"{split} has no labels and is left out" for split in unlabelled]
    taken = {split: _take(table, columns) for split, table in given.items() if split not in unlabelled}
    regression = _is_regression([e for rows in taken.values() for e in rows.values()], options)
    if dropped := sum(len(given[split]) for split in taken) - sum(map(len, taken.values())):
        remarks.append(f"{counted(dropped, 'example')} without a text: left out")
    found = {split: _labelled(given[split].name, rows, number=regression) for split, rows in taken.items()}
    if dropped := sum(map(len, taken.values())) - sum(map(len, found.values())):
        remarks.append(f"{counted(dropped, 'example')} without a label: left out")
    if options.duplicates == "drop":
        found, n = _distinct(found)
        remarks.append(f"{counted(n, 'repeat')} of texts: left out")
    if options.balance == "sample":
        if regression:
            raise ConfigError("--balance sample needs classes, and these labels are numbers")
        found["train"], said = _balanced(found, options)
        remarks += said
    made: set[str] = {split for split in SPLITS if split not in found}
    found = _split(found, options, stratify=not regression)
    labels = () if regression else _classes(path, found, made)
    remarks += _odd_names(found, labels) + _odd_texts(found, labels) + _empty(found, options, made)
    return Examples(path, found, labels, columns, tuple(remarks))


def _unlabelled(given: dict[str, Table], columns: Choice) -> list[str]:
    """Splits whose labels are all missing, or that lack their column and have none that training does not."""
    train = given["train"].columns.keys()
    return [
        split
        for split, table in given.items()
        if split != "train"
        and (
            all(_text(label).strip() == "" for label in table.columns[columns.label])
            if columns.label in table.columns
            else table.columns.keys() < train
        )
    ]


def _empty(found: dict[str, list[Example]], options: ClassifyOptions, made: set[str]) -> list[str]:
    """What to say of shares that are none."""
    shares = {"val": options.val_fraction, "test": options.test_fraction}
    n = sum(len(examples) for split, examples in found.items() if split in made | {"train"})
    return [
        f"{split} is empty: --{split}-fraction {share:g} of {counted(n, 'example')} is none"
        for split, share in shares.items()
        if split in made and share and not found[split]
    ]


def _odd_names(found: dict[str, list[Example]], labels: tuple[str, ...]) -> list[str]:
    """What a person may not have meant by names of classes."""
    said = []
    if len(labels) > MANY and all(_number(name) is not None for name in labels):
        said.append(f"{len(labels):,} classes whose names are all numbers; --kind number predicts a number")
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(name.casefold(), []).append(name)
    if twice := [" and ".join(names) for names in alike.values() if len(names) > 1]:
        said.append(
            f"classes that differ in capitals alone: {', '.join(twice)}; write them alike if they are one"
        )
    if missing := [name for name in labels if name.casefold() in MISSING]:
        counts = Counter(example.label for examples in found.values() for example in examples)
        listed = ", ".join(f"{name} ({counts[name]:,})" for name in missing)
        said.append(f"classes whose names look like missing values: {listed}; empty cells are left out")
    return said


def _odd_texts(found: dict[str, list[Example]], labels: tuple[str, ...]) -> list[str]:
    """Texts that contradict each other, or flatter the scores."""
    said, names = [], {}
    for example in (e for examples in found.values() for e in examples if labels):
        names.setdefault(_key(example), set()).add(example.label)
    if torn := sum(len(several) > 1 for several in names.values()):
        said.append(f"{counted(torn, 'text')} found more than once with different labels")
    if shared := _shared(found):
        said.append(
            f"{counted(shared, 'text')} of validation or test found in training as well, which flatters the scores; "
            "--duplicates drop leaves repeats out"
        )
    return said


def _take(table: Table, columns: Choice) -> dict[int, Example]:
    """The rows that have a text, by their number in the table, counted from 1."""
    for name in filter(None, (columns.text, columns.pair, columns.label)):
        if name not in table.columns:
            raise DataError(f"{table.name} has no column {name!r}; there are {', '.join(table.columns)}")
    pairs = table.columns[columns.pair] if columns.pair else [None] * len(table)
    rows = zip(table.columns[columns.text], pairs, table.columns[columns.label], strict=True)
    return {
        row: Example(_text(text), None if pair is None else _text(pair), label)
        for row, (text, pair, label) in enumerate(rows, 1)
        if _text(text).strip()
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _is_regression(examples: Iterable[Example], options: ClassifyOptions) -> bool:
    """Numbers that are not whole are no names of classes."""
    if options.kind != "auto":
        return options.kind == "number"
    numbers = [_number(example.label) for example in examples if _text(example.label).strip()]
    return all(n is not None for n in numbers) and any(not float(n or 0).is_integer() for n in numbers)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _labelled(name: str, rows: dict[int, Example], *, number: bool) -> list[Example]:
    """The examples that have a label, as a name or a number; most of them must."""
    if not rows:
        raise DataError(f"{name} holds no example with a text")
    labels = {row: _text(one.label).strip() for row, one in rows.items()}
    empty = [row for row, label in labels.items() if not label]
    if 2 * len(empty) > len(rows):
        raise DataError(
            f"{name}: {len(empty):,} of {counted(len(rows), 'example')} have an empty label, the first in row "
            f"{empty[0]:,}; fill them in, or name another column with --label"
        )
    kept = {row: label for row, label in labels.items() if label}
    if not number:
        return [replace(rows[row], label=label) for row, label in kept.items()]
    numbers = {row: _number(rows[row].label) for row in kept}
    if bad := [row for row, label in numbers.items() if label is None]:
        more = f" (and {len(bad) - 1:,} more such)" if len(bad) > 1 else ""
        raise DataError(f"{name}: the label of row {bad[0]:,} is no number: {rows[bad[0]].label!r}{more}")
    return [replace(rows[row], label=label) for row, label in numbers.items()]


def _key(example: Example) -> str:
    """What makes two examples the same text: letters' case and spacing do not tell them apart."""
    return "\0".join(" ".join(part.lower().split()) for part in (example.text, example.pair or ""))


def _distinct(found: dict[str, list[Example]]) -> tuple[dict[str, list[Example]], int]:
    """Every text once, in the first split that has it; and how many went."""
    seen: set[str] = set()
    kept: dict[str, list[Example]] = {}
    for split in (name for name in SPLITS if name in found):
        kept[split] = []
        for example in found[split]:
            if (key := _key(example)) not in seen:
                seen.add(key)
                kept[split].append(example)
    return kept, sum(map(len, found.values())) - sum(map(len, kept.values()))


def _shared(found: dict[str, list[Example]]) -> int:
    known = {_key(example) for example in found["train"]}
    return sum(_key(example) in known for split in ("val", "test") for example in found[split])


def _balanced(found: dict[str, list[Example]], options: ClassifyOptions) -> tuple[list[Example], list[str]]:
    """As many of each class as of the rarest; and what to say of it."""
    examples = found["train"]
    chosen = splits.balanced([str(example.label) for example in examples], options.split_seed)
    shares = {"validation": ("val", options.val_fraction), "test": ("test", options.test_fraction)}
    thinned = [name for name, (split, share) in shares.items() if split not in found and share]
    also = f", from {' and '.join(thinned)} as well" if thinned else ""
    n = len(examples) - len(chosen)
    said = [f"--balance sample leaves out {counted(n, 'example')}{also}"] if n else []
    return [examples[index] for index in chosen], said


def _split(
    found: dict[str, list[Example]], options: ClassifyOptions, *, stratify: bool
) -> dict[str, list[Example]]:
    """What is not given is taken off the end of training, spread over the labels."""
    val = 0.0 if "val" in found else options.val_fraction
    test = 0.0 if "test" in found else options.test_fraction
    if val + test >= 1:
        raise ConfigError(f"--val-fraction {val} and --test-fraction {test} leave nothing to train on")
    examples = found["train"]
    labels = [str(example.label) if stratify else "" for example in examples]
    cuts = splits.cut(labels, val, test, options.split_seed)
    made = {split: [examples[i] for i in part] for split, part in zip(SPLITS, cuts, strict=True)}
    return {split: found[split] if split in found and split != "train" else made[split] for split in SPLITS}


def _classes(path: Path, found: dict[str, list[Example]], made: set[str]) -> tuple[str, ...]:
    names = {split: {str(example.label) for example in found[split]} for split in SPLITS}
    texts = {example.text for split in SPLITS for example in found[split]}
    labels = set().union(*names.values())
    if len(labels) > max(10, len(texts)):
        raise DataError(
            f"{path} has {len(labels):,} labels and only {counted(len(texts), 'text')}, such as label "
            f"{beginning(min(labels), 40)!r} of text {beginning(min(texts), 40)!r}: --text and --label may be swapped"
        )
    if len(names["train"]) < 2:
        raise DataError(
            f"{path} has one class only, {beginning(next(iter(names['train']), 'none'), 40)}: nothing to tell apart"
        )
    for split in ("val", "test"):
        if unseen := sorted(names[split] - names["train"]):
            few = ", ".join(beginning(name, 40) for name in unseen[:FEW])
            few += f" and {len(unseen) - FEW:,} more" if len(unseen) > FEW else ""
            numbers = all(_number(name) is not None for name in labels)
            hint = "; --kind number predicts a number" if numbers else ""
            if split in made:
                why = "labels have too few examples to be in training and held out as well"
                raise DataError(f"{path}: {why}: {few}{hint or '; add examples, or leave those out'}")
            raise DataError(f"{path}: {split} has labels that training never sees: {few}{hint}")
    known = sorted(names["train"])
    if all(name.lstrip("-").isdecimal() for name in known):
        known.sort(key=int)
    return tuple(known)
