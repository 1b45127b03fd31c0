"""`hf:OWNER/NAME[:CONFIG][@REVISION]`: a dataset of the Hugging Face Hub, streamed, never downloaded whole.

The revision is looked up once and pinned, so that an interrupted `prepare` cannot go on with another one; and
the stream's own state is kept with every piece, so that it goes on in the middle.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from gptworks.data.readings import column
from gptworks.data.records import Document, Keys, from_record
from gptworks.data.tables import Columns, Table
from gptworks.errors import DataError
from gptworks.hub import meaning
from gptworks.wording import first_line

ROWS = 256
"""Rows asked for at a time; a stream's state is known only between them."""

LIBRARIES = ("datasets", "huggingface_hub", "httpx", "requests", "aiohttp", "fsspec", "pyarrow")

State = dict[str, Any]


def parts(name: str) -> tuple[str, str | None, str | None]:
    """Repository, configuration and revision that a name says."""
    named, _, revision = name.removeprefix("hf:").partition("@")
    repository, _, configuration = named.partition(":")
    return repository, configuration or None, revision or None


def pin(name: str, split: str, begun: str = "") -> str:
    """What a source's name stands for, down to the revision: that of `begun`, an earlier answer to the same question.

    Raises:
        DataError: there is no such dataset, configuration or split, or nobody answers.
    """
    repository, configuration, revision = parts(name)
    asked = {"repository": repository, "configuration": configuration, "split": split}
    if begun and json.loads(begun) == asked | {"revision": json.loads(begun)["revision"]}:
        return begun
    try:
        import datasets
        from huggingface_hub import HfApi
    except ImportError:
        raise DataError(f"{name}: the Hub needs the datasets library: pip install 'gptworks[data]'") from None

    datasets.disable_progress_bars()
    with in_one_line(f"{name} (split {split})"):
        pinned = json.dumps(asked | {"revision": HfApi().dataset_info(repository, revision=revision).sha})
        open_stream(pinned)
    return pinned


@contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Turn what the Hub's libraries raise into a DataError that says what to do."""
    try:
        yield
    except Exception as error:
        # Each version of the client lets its own HTTP library's errors through, so no list of types is complete.
        library = type(error).__module__.partition(".")[0]
        known = isinstance(error, OSError | ValueError) or library.startswith(LIBRARIES)
        if not known and "no longer supported" not in first_line(error):  # a RuntimeError of datasets
            raise
        repository = parts(name.partition(" ")[0])[0]
        raise DataError(f"{name}: {meaning(error, repository, 'dataset')}") from None


@lru_cache(maxsize=8)
def open_stream(pinned: str) -> Any:
    """The rows of what `pin` found, as they come."""
    import datasets

    what = json.loads(pinned)
    return datasets.load_dataset(
        what["repository"],
        what["configuration"],
        split=what["split"],
        revision=what["revision"],
        streaming=True,
    )


def batches(pinned: str, keys: Keys, state: State | None) -> Iterator[tuple[list[Document], State]]:
    """Documents from where `state` says, some at a time, and the state after them."""
    name, row = f"hf:{json.loads(pinned)['repository']}", 0
    with in_one_line(name):
        stream = _stream(pinned, name, keys)
        if state is not None:
            row = state["row"]
            stream.load_state_dict(state["stream"])
        for table in stream.iter(batch_size=ROWS):
            texts, sets = (column(table, key, table.num_rows) for key in (keys.text, keys.set))
            found = [
                from_record({keys.text: text, keys.set: named}, keys, row + number)
                for number, (text, named) in enumerate(zip(texts, sets, strict=True), start=1)
            ]
            row += table.num_rows
            yield found, {"row": row, "stream": stream.state_dict()}


def tables(name: str, limit: int | None) -> list[tuple[str, Table]]:
    """Every split of a dataset as a table of its first `limit` rows, for data that fits into memory.

    Raises:
        DataError: there is no such dataset or configuration, or nobody answers.
    """
    repository, configuration, revision = parts(name)
    try:
        import datasets
    except ImportError:
        raise DataError(f"{name}: the Hub needs the datasets library: pip install 'gptworks[data]'") from None

    datasets.disable_progress_bars()
    with in_one_line(name):
        found = datasets.load_dataset(repository, configuration, revision=revision, streaming=True)
        return [
            (
                str(split),
                Table(f"{name} (split {split})", _columns(rows if limit is None else rows.take(limit))),
            )
            for split, rows in found.items()
        ]


def rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one split of `hf:OWNER/NAME[:CONFIG][@REVISION]` as they come; classes by
    name, None where there is none.

    Raises:
        DataError: there is no such dataset, configuration or split, or nobody answers.
    """
    pinned = pin(name, split)
    with in_one_line(f"{name} (split {split})"):
        stream = open_stream(pinned)
        for batch in stream.iter(batch_size=ROWS):
            columns = _named(batch, stream.features)
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def _columns(rows: Any) -> Columns:
    """A split's columns; numbers of classes as the classes' names, None where there is none."""
    columns: Columns = {}
    for batch in rows.iter(batch_size=ROWS):
        for name, values in batch.items():
            columns.setdefault(name, []).extend(values)
    return _named(columns, rows.features)


def _named(columns: Columns, features: Any) -> Columns:
    """Columns with the classes' names instead of their numbers."""
    named = dict(columns)
    for name, feature in (features or {}).items():
        if names := getattr(feature, "names", None):
            named[name] = [None if n is None or n < 0 else names[n] for n in columns.get(name, [])]
    return named


def _stream(pinned: str, name: str, keys: Keys) -> Any:
    """The dataset as Arrow tables with the columns that are needed."""
    stream = open_stream(pinned)
    if names := stream.column_names:
        wanted = {part for key in keys if key for part in (key, key.partition(".")[0]) if part in names}
        if wanted.isdisjoint((keys.text, keys.text.partition(".")[0])):
            have = ", ".join(names)
            raise DataError(f"{name} has no column {keys.text!r} (it has {have}); --text-key names another")
        stream = stream.select_columns(sorted(wanted))
    return stream.with_format("arrow")
