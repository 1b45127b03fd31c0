"""Labelled texts for fine-tuning: the columns and labels to use, and which examples train and which are held out.

Splits in the data are kept (a folder or zip with train, validation and test). Missing ones are made from a seed, with
every label spread evenly over them. Nothing depends on the order in which anything runs.
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
from gptworks.data.columns import Columns, choose
from gptworks.data.tables import Table
from gptworks.errors import ConfigError, DataError
from gptworks.messages import counted, shorten
from gptworks.recipe import ClassifyOptions

SPLITS = ("train", "val", "test")
FEW = 3
"""Labels that an error names."""
MANY = 20
"""More class names than these raise a question if all are numbers."""
MISSING = frozenset({"na", "n/a", "nan", "none", "null"})
"""What programs write for a missing value."""


@dataclass(frozen=True)
class Example:
    """A text or text pair and its label."""

    text: str
    text_pair: str | None
    label: str | float


BySplit = dict[str, list[Example]]


@dataclass(frozen=True)
class Examples:
    """Labelled texts in splits."""

    path: Path
    splits: BySplit
    labels: tuple[str, ...]
    """Class names in the order of the model's outputs; empty for regression."""
    columns: Columns
    remarks: tuple[str, ...]
    """What a person should know about the data."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the examples, split by split."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for example in self.splits[split]:
                digest.update(json.dumps([split, example.text, example.text_pair, example.label]).encode())
        return digest.hexdigest()

    def targets(self, split: str) -> np.ndarray:
        """(N,) class ids of a split's examples, or the values to predict."""
        if not self.labels:
            return np.array([example.label for example in self.splits[split]], dtype=np.float32)
        ids = {name: id for id, name in enumerate(self.labels)}
        return np.array([ids[str(example.label)] for example in self.splits[split]], dtype=np.int64)


def load(path: Path, options: ClassifyOptions) -> Examples:
    """The examples in a file, a zip, a folder of train, validation and test files, or a Hub dataset (`hf:NAME`).

    Raises:
        DataError: the data or a column does not exist, there is only one class, or a held-out label is not in training.
        ConfigError: --val-fraction and --test-fraction leave nothing to train on.
    """
    tables = splits.read_splits(path, options.limit)
    columns = choose(tables["train"], options)
    unlabelled = _unlabelled_splits(tables, columns)
    remarks = [f"{split} has no labels and is not used" for split in unlabelled]
    with_text = {
        split: _rows_with_text(table, columns) for split, table in tables.items() if split not in unlabelled
    }
    regression = _is_regression([e for rows in with_text.values() for e in rows.values()], options)
    if dropped := sum(len(tables[split]) for split in with_text) - sum(map(len, with_text.values())):
        remarks.append(f"dropped {counted(dropped, 'example')} without a text")
    found = {
        split: _labelled(tables[split].name, rows, regression=regression) for split, rows in with_text.items()
    }
    if dropped := sum(map(len, with_text.values())) - sum(map(len, found.values())):
        remarks.append(f"dropped {counted(dropped, 'example')} without a label")
    if options.duplicates == "drop":
        found, n = _drop_duplicates(found)
        remarks.append(f"dropped {counted(n, 'repeated text')}")
    if options.balance == "sample":
        if regression:
            raise ConfigError("--balance sample needs classes, and these labels are numbers")
        found["train"], notes = _balance(found, options)
        remarks += notes
    made: set[str] = {split for split in SPLITS if split not in found}
    found = _split(found, options, stratify=not regression)
    labels = () if regression else _class_names(path, found, made)
    remarks += _label_notes(found, labels) + _text_notes(found, labels) + _empty_notes(found, options, made)
    return Examples(path, found, labels, columns, tuple(remarks))


def _unlabelled_splits(tables: dict[str, Table], columns: Columns) -> list[str]:
    """Held-out splits with only empty labels, or without the label column and with no column of their own."""
    train = tables["train"].columns.keys()
    return [
        split
        for split, table in tables.items()
        if split != "train"
        and (
            all(_text(label).strip() == "" for label in table.columns[columns.label])
            if columns.label in table.columns
            else table.columns.keys() < train
        )
    ]


def _empty_notes(found: BySplit, options: ClassifyOptions, made: set[str]) -> list[str]:
    """Notes on held-out splits that are too small to have an example."""
    shares = {"val": options.val_fraction, "test": options.test_fraction}
    n = sum(len(examples) for split, examples in found.items() if split in made | {"train"})
    return [
        f"{split} is empty: --{split}-fraction {share:g} of {counted(n, 'example')} rounds to none"
        for split, share in shares.items()
        if split in made and share and not found[split]
    ]


def _label_notes(found: BySplit, labels: tuple[str, ...]) -> list[str]:
    """Notes on class names that may be a mistake."""
    notes = []
    if len(labels) > MANY and all(_number(name) is not None for name in labels):
        notes.append(
            f"{len(labels):,} classes with numbers as names; --problem-type regression predicts a number"
        )
    by_lower: dict[str, list[str]] = {}
    for name in labels:
        by_lower.setdefault(name.casefold(), []).append(name)
    if alike := [" and ".join(names) for names in by_lower.values() if len(names) > 1]:
        notes.append(
            f"classes that differ only in capitals: {', '.join(alike)}; spell them alike if they are the same"
        )
    if missing := [name for name in labels if name.casefold() in MISSING]:
        counts = Counter(example.label for examples in found.values() for example in examples)
        listed = ", ".join(f"{name} ({counts[name]:,})" for name in missing)
        notes.append(f"classes that look like missing values: {listed}; rows with empty labels are dropped")
    return notes


def _text_notes(found: BySplit, labels: tuple[str, ...]) -> list[str]:
    """Notes on texts with contradictory labels, and on held-out texts that training also sees."""
    notes, labels_of = [], {}
    for example in (e for examples in found.values() for e in examples if labels):
        labels_of.setdefault(_key(example), set()).add(example.label)
    if n := sum(len(names) > 1 for names in labels_of.values()):
        notes.append(f"{counted(n, 'text')} with different labels in different rows")
    train = {_key(example) for example in found["train"]}
    if n := sum(_key(example) in train for split in ("val", "test") for example in found[split]):
        notes.append(
            f"{counted(n, 'text')} of validation or test also in training, which inflates the scores; "
            "--duplicates drop removes repeats"
        )
    return notes


def _rows_with_text(table: Table, columns: Columns) -> dict[int, Example]:
    """The rows that have a text, by their number in the table, from 1."""
    for name in filter(None, (columns.text, columns.text_pair, columns.label)):
        if name not in table.columns:
            raise DataError(f"{table.name} has no column {name!r}; it has {', '.join(table.columns)}")
    pairs = table.columns[columns.text_pair] if columns.text_pair else [None] * len(table)
    rows = zip(table.columns[columns.text], pairs, table.columns[columns.label], strict=True)
    return {
        row: Example(_text(text), None if pair is None else _text(pair), label)
        for row, (text, pair, label) in enumerate(rows, 1)
        if _text(text).strip()
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _is_regression(examples: Iterable[Example], options: ClassifyOptions) -> bool:
    """As the options say; auto: True if all labels are numbers and some are not whole."""
    if options.problem_type != "auto":
        return options.problem_type == "regression"
    numbers = [_number(example.label) for example in examples if _text(example.label).strip()]
    return all(n is not None for n in numbers) and any(not float(n or 0).is_integer() for n in numbers)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _labelled(name: str, rows: dict[int, Example], *, regression: bool) -> list[Example]:
    """The examples with a label, as a class name or a number; most of them must have one."""
    if not rows:
        raise DataError(f"{name} has no example with a text")
    labels = {row: _text(example.label).strip() for row, example in rows.items()}
    empty = [row for row, label in labels.items() if not label]
    if 2 * len(empty) > len(rows):
        raise DataError(
            f"{name}: {len(empty):,} of {counted(len(rows), 'example')} have an empty label, the first in row "
            f"{empty[0]:,}; fill them in, or choose another column with --label"
        )
    kept = {row: label for row, label in labels.items() if label}
    if not regression:
        return [replace(rows[row], label=label) for row, label in kept.items()]
    numbers = {row: _number(rows[row].label) for row in kept}
    if bad := [row for row, label in numbers.items() if label is None]:
        more = f" (and {len(bad) - 1:,} more)" if len(bad) > 1 else ""
        raise DataError(f"{name}: the label in row {bad[0]:,} is not a number: {rows[bad[0]].label!r}{more}")
    return [replace(rows[row], label=label) for row, label in numbers.items()]


def _key(example: Example) -> str:
    """Two examples with the same key have the same text. Ignores case and spacing."""
    return "\0".join(" ".join(part.lower().split()) for part in (example.text, example.text_pair or ""))


def _drop_duplicates(found: BySplit) -> tuple[BySplit, int]:
    """Keep each text in the first split that has it; also returns how many were dropped."""
    seen: set[str] = set()
    kept: BySplit = {}
    for split in (name for name in SPLITS if name in found):
        kept[split] = []
        for example in found[split]:
            if (key := _key(example)) not in seen:
                seen.add(key)
                kept[split].append(example)
    return kept, sum(map(len, found.values())) - sum(map(len, kept.values()))


def _balance(found: BySplit, options: ClassifyOptions) -> tuple[list[Example], list[str]]:
    """Training examples with as many of each class as of the rarest, and notes on what was dropped."""
    examples = found["train"]
    chosen = splits.balance([str(example.label) for example in examples], options.split_seed)
    shares = {"validation": ("val", options.val_fraction), "test": ("test", options.test_fraction)}
    thinned = [name for name, (split, share) in shares.items() if split not in found and share]
    also = f", also from {' and '.join(thinned)}" if thinned else ""
    n = len(examples) - len(chosen)
    notes = [f"--balance sample drops {counted(n, 'example')}{also}"] if n else []
    return [examples[index] for index in chosen], notes


def _split(found: BySplit, options: ClassifyOptions, *, stratify: bool) -> BySplit:
    """Take missing splits out of training, with every label spread evenly."""
    val = 0.0 if "val" in found else options.val_fraction
    test = 0.0 if "test" in found else options.test_fraction
    if val + test >= 1:
        raise ConfigError(f"--val-fraction {val} and --test-fraction {test} leave nothing to train on")
    examples = found["train"]
    labels = [str(example.label) if stratify else "" for example in examples]
    indices = splits.split_indices(labels, val, test, options.split_seed)
    made = {split: [examples[i] for i in part] for split, part in zip(SPLITS, indices, strict=True)}
    return {split: found[split] if split in found and split != "train" else made[split] for split in SPLITS}


def _class_names(path: Path, found: BySplit, made: set[str]) -> tuple[str, ...]:
    """The classes in training, checked against the other splits."""
    names = {split: {str(example.label) for example in found[split]} for split in SPLITS}
    texts = {example.text for split in SPLITS for example in found[split]}
    labels = set().union(*names.values())
    if len(labels) > max(10, len(texts)):
        raise DataError(
            f"{path} has {len(labels):,} labels and only {counted(len(texts), 'text')}, such as label "
            f"{shorten(min(labels), 40)!r} of text {shorten(min(texts), 40)!r}: --text and --label may be swapped"
        )
    if len(names["train"]) < 2:
        only = shorten(next(iter(names["train"]), "none"), 40)
        raise DataError(f"{path} has only one class, {only}: there is nothing to distinguish")
    for split in ("val", "test"):
        if unseen := sorted(names[split] - names["train"]):
            few = ", ".join(shorten(name, 40) for name in unseen[:FEW])
            few += f" and {len(unseen) - FEW:,} more" if len(unseen) > FEW else ""
            numbers = all(_number(name) is not None for name in labels)
            hint = "; --problem-type regression predicts a number" if numbers else ""
            if split in made:
                problem = "labels have too few examples to be both in training and held out"
                raise DataError(f"{path}: {problem}: {few}{hint or '; add examples, or remove these'}")
            raise DataError(f"{path}: {split} has labels that are not in training: {few}{hint}")
    known = sorted(names["train"])
    if all(name.lstrip("-").isdecimal() for name in known):
        known.sort(key=int)
    return tuple(known)
