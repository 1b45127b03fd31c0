"""Tables of examples by split: of a file, a zip, a folder of train, validation and test files, or a Hub dataset.

And which examples are held out, where the data do not say.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptworks.data import hub, tables
from gptworks.data.tables import Table
from gptworks.errors import DataError

SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "test": "test",
}
"""What people call splits."""


def by_name(path: Path, limit: int | None) -> dict[str, Table]:
    """Tables by split, of each the first `limit` rows. A single one is called train until it is split.

    Raises:
        DataError: there is no such data, it is no table, or none of several is called train.
    """
    if str(path).startswith("hf:"):
        found = hub.tables(str(path), limit)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.stem.lower() in SPELLINGS and file.is_file())
        found = [(file.stem, table) for file in files for table in tables.read(file)]
    else:
        found = [(Path(table.name).stem, table) for table in tables.read(path)]
    if not found:
        raise DataError(f"{path} holds no train, validation or test file")
    cut = [(name.lower(), table if limit is None else table.head(limit)) for name, table in found]
    if len(cut) == 1:
        return {"train": cut[0][1]}
    known = {SPELLINGS[name]: table for name, table in cut if name in SPELLINGS}
    if "train" not in known:
        raise DataError(
            f"{path} holds {', '.join(name for name, _ in cut)}, and none of them is called train"
        )
    return known


def cut(labels: Sequence[str], val: float, test: float, seed: int) -> list[np.ndarray]:
    """Numbers of the examples that train, validate and test: shares of an order in which labels are spread evenly."""
    mixed = _mixed(labels, seed)
    n_train, n_val = int((1 - val - test) * len(labels) + 1e-6), int(val * len(labels) + 1e-6)
    if not test:
        n_train = len(labels) - n_val
    if not val:
        n_val = 0
    return np.split(mixed, [n_train, n_train + n_val])


def _mixed(labels: Sequence[str], seed: int) -> np.ndarray:
    """An order of the examples in which every stretch has about its share of each label."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    names = np.array(labels)
    for label in sorted(set(labels)):
        mine = np.flatnonzero(names == label)
        place[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(place, kind="stable")


def balanced(labels: Sequence[str], seed: int) -> list[int]:
    """Numbers of as many examples of each label as of the rarest, drawn with a seed; order kept."""
    least = min(Counter(labels).values())
    chosen: list[int] = []
    for label in sorted(set(labels)):
        mine = [index for index, name in enumerate(labels) if name == label]
        chosen += np.random.default_rng(seed).permutation(mine)[:least].tolist()
    return sorted(chosen)
