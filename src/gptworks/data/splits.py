"""Tables of examples by split: of a file, a zip, a folder of train, validation and test files, or a Hub dataset."""

from pathlib import Path

from gptworks.data import hub, tables
from gptworks.data.examples import SPELLINGS
from gptworks.data.tables import Table
from gptworks.errors import DataError


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
