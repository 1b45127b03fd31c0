"""Labelled texts for fine-tuning: which columns, which labels, which examples train and which are held out.

Splits that are given are kept (a folder or zip with train, validation and test); others are made from a seed, every
label spread evenly over them. Nothing depends on the order in which anything runs.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
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
    remarks = []
    for split in [name for name in given if name != "train"]:
        if all(value is None for value in given[split].columns.get(columns.label, [0])):
            del given[split]
            remarks.append(f"{split} has no labels and is left out")
    found = {split: _take(table, columns) for split, table in given.items()}
    regression = _is_regression([e for examples in found.values() for e in examples], options)
    if dropped := sum(len(given[split]) for split in found) - sum(map(len, found.values())):
        remarks.append(f"{counted(dropped, 'example')} without a text: left out")
    found = {split: _labelled(given[split].name, found[split], number=regression) for split in found}
    if options.duplicates == "drop":
        found, n = _distinct(found)
        remarks.append(f"{counted(n, 'repeat')} of texts: left out")
    if options.balance == "sample":
        if regression:
            raise ConfigError("--balance sample needs classes, and these labels are numbers")
        found["train"] = _balanced(found["train"], options.split_seed)
    found = _split(found, options, stratify=not regression)
    labels = () if regression else _classes(path, found)
    remarks += _odd_names(labels)
    if shared := _shared(found):
        remarks.append(
            f"{counted(shared, 'text')} of validation or test found in training as well, which flatters the scores; "
            "--duplicates drop leaves repeats out"
        )
    return Examples(path, found, labels, columns, tuple(remarks))


def _odd_names(labels: tuple[str, ...]) -> list[str]:
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
    return said


def _take(table: Table, columns: Choice) -> list[Example]:
    for name in filter(None, (columns.text, columns.pair, columns.label)):
        if name not in table.columns:
            raise DataError(f"{table.name} has no column {name!r}; there are {', '.join(table.columns)}")
    pairs = table.columns[columns.pair] if columns.pair else [None] * len(table)
    rows = zip(table.columns[columns.text], pairs, table.columns[columns.label], strict=True)
    return [
        Example(_text(text), None if pair is None else _text(pair), label)
        for text, pair, label in rows
        if _text(text).strip()
    ]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _is_regression(examples: Iterable[Example], options: ClassifyOptions) -> bool:
    """Numbers that are not whole are no names of classes."""
    if options.kind != "auto":
        return options.kind == "number"
    numbers = [_number(example.label) for example in examples]
    return all(n is not None for n in numbers) and any(not float(n or 0).is_integer() for n in numbers)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _labelled(name: str, examples: list[Example], *, number: bool) -> list[Example]:
    """The examples with labels as names, or as numbers."""
    labels = [_number(one.label) if number else _text(one.label).strip() for one in examples]
    labelled = [replace(one, label=label) for one, label in zip(examples, labels, strict=True)]
    if bad := [row for row, label in enumerate(labels) if label is None or label == ""]:
        kind = (
            f"is no number: {examples[bad[0]].label!r}"
            if number
            else "is empty; fill it in, or leave the row out"
        )
        more = f" (and {len(bad) - 1:,} more such)" if len(bad) > 1 else ""
        raise DataError(f"{name}: the label of example {bad[0] + 1} {kind}{more}")
    if not labelled:
        raise DataError(f"{name} holds no example with a text")
    return labelled


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


def _balanced(examples: list[Example], seed: int) -> list[Example]:
    """As many of each class as of the rarest, drawn with a seed; order kept."""
    least = min(Counter(example.label for example in examples).values())
    chosen: list[int] = []
    for label in sorted({str(example.label) for example in examples}):
        mine = [index for index, example in enumerate(examples) if example.label == label]
        chosen += np.random.default_rng(seed).permutation(mine)[:least].tolist()
    return [examples[index] for index in sorted(chosen)]


def _split(
    found: dict[str, list[Example]], options: ClassifyOptions, *, stratify: bool
) -> dict[str, list[Example]]:
    """What is not given is taken off the end of training, spread over the labels."""
    val = 0.0 if "val" in found else options.val_fraction
    test = 0.0 if "test" in found else options.test_fraction
    if val + test >= 1:
        raise ConfigError(f"--val-fraction {val} and --test-fraction {test} leave nothing to train on")
    examples = found["train"]
    mixed = _mixed([str(e.label) if stratify else "" for e in examples], options.split_seed)
    n_train, n_val = int((1 - val - test) * len(examples) + 1e-6), int(val * len(examples) + 1e-6)
    if not test:
        n_train = len(examples) - n_val
    if not val:
        n_val = 0
    cuts = np.split(mixed, [n_train, n_train + n_val])
    made = {split: [examples[i] for i in part] for split, part in zip(SPLITS, cuts, strict=True)}
    return {split: found[split] if split in found and split != "train" else made[split] for split in SPLITS}


def _mixed(labels: Sequence[str], seed: int) -> np.ndarray:
    """An order of the examples in which every stretch has about its share of each label."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    names = np.array(labels)
    for label in sorted(set(labels)):
        mine = np.flatnonzero(names == label)
        place[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(place, kind="stable")


def _classes(path: Path, found: dict[str, list[Example]]) -> tuple[str, ...]:
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
            more = f" and {len(unseen) - FEW:,} more" if len(unseen) > FEW else ""
            raise DataError(f"{path}: {split} has labels that training never sees: {few}{more}")
    known = sorted(names["train"])
    if all(name.lstrip("-").isdecimal() for name in known):
        known.sort(key=int)
    return tuple(known)
