"""Tables of examples in splits: from a file, a zip, a folder of train, validation and test files, or a Hub dataset.

Also chooses what is held out if the data has no such splits.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptworks.data import hub, tables
from gptworks.data.tables import Table
from gptworks.errors import DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test",),
}
"""Common names of each split."""
SPELLINGS = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def read_splits(path: Path, limit: int | None) -> dict[str, Table]:
    """The first `limit` rows of each split's table. A single table is called train.

    Raises:
        DataError: the data does not exist, is not a table, or has several tables and none is called train.
    """
    if str(path).startswith("hf:"):
        found = hub.read_tables(str(path), limit)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.stem.lower() in SPELLINGS and file.is_file())
        found = [(file.stem, table) for file in files for table in tables.read(file)]
    else:
        found = [(Path(table.name).stem, table) for table in tables.read(path)]
    if not found:
        raise DataError(f"{path} has no train, validation or test file")
    named = [(name.lower(), table if limit is None else table.head(limit)) for name, table in found]
    if len(named) == 1:
        return {"train": named[0][1]}
    known = {SPELLINGS[name]: table for name, table in named if name in SPELLINGS}
    if "train" not in known:
        raise DataError(f"{path} has {', '.join(name for name, _ in named)}, but nothing called train")
    return known


def split_indices(labels: Sequence[str], val: float, test: float, seed: int) -> list[np.ndarray]:
    """Indices of the examples for train, val and test; each has about its share of every label."""
    mixed = _mix(labels, seed)
    n_train, n_val = int((1 - val - test) * len(labels) + 1e-6), int(val * len(labels) + 1e-6)
    if not test:
        n_train = len(labels) - n_val
    if not val:
        n_val = 0
    return np.split(mixed, [n_train, n_train + n_val])


def _mix(labels: Sequence[str], seed: int) -> np.ndarray:
    """An order of the examples in which every stretch has about its share of each label."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    names = np.array(labels)
    for label in sorted(set(labels)):
        indices = np.flatnonzero(names == label)
        place[rng.permutation(indices)] = (np.arange(len(indices)) + rng.random()) / len(indices)
    return np.argsort(place, kind="stable")


def balance(labels: Sequence[str], seed: int) -> list[int]:
    """Sorted indices of a random sample with as many examples of each label as the rarest has."""
    least = min(Counter(labels).values())
    chosen: list[int] = []
    for label in sorted(set(labels)):
        indices = [index for index, name in enumerate(labels) if name == label]
        chosen += np.random.default_rng(seed).permutation(indices)[:least].tolist()
    return sorted(chosen)
