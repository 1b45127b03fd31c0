"""`hf:OWNER/NAME[:CONFIG][@REVISION]`: datasets of the Hugging Face Hub, streamed, never downloaded whole.

The revision is looked up once and pinned, so that an interrupted `prepare` never resumes with another one. The state of
the stream is saved with every work unit, so that it resumes in the middle.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

from gptworks.data.documents import Document, Keys, from_record
from gptworks.data.json_files import Record
from gptworks.data.readers import column, no_column
from gptworks.data.tables import Table
from gptworks.errors import DataError
from gptworks.hub import explain_error
from gptworks.messages import first_line

ROWS = 256
"""Rows requested at a time; a stream's state is known only between requests."""

LIBRARIES = ("datasets", "huggingface_hub", "httpx", "requests", "aiohttp", "fsspec", "pyarrow")

State = dict[str, Any]


def parse_name(name: str) -> tuple[str, str | None, str | None]:
    """Repository, configuration and revision of an hf: name."""
    spec, _, revision = name.removeprefix("hf:").partition("@")
    repository, _, configuration = spec.partition(":")
    return repository, configuration or None, revision or None


def pin(name: str, split: str, earlier: str = "") -> str:
    """A JSON object with everything that identifies the content of a split, down to the revision.

    If `earlier` pins the same split, it is returned unchanged.

    Raises:
        DataError: the dataset, configuration or split does not exist, or the Hub cannot be reached.
    """
    repository, configuration, revision = parse_name(name)
    wanted = {"repository": repository, "configuration": configuration, "split": split}
    if earlier and json.loads(earlier) == wanted | {"revision": json.loads(earlier)["revision"]}:
        return earlier
    _import_datasets(name)
    from huggingface_hub import HfApi

    with explain_errors(f"{name} (split {split})"):
        pinned = json.dumps(wanted | {"revision": HfApi().dataset_info(repository, revision=revision).sha})
        open_stream(pinned)
    return pinned


def _import_datasets(name: str) -> Any:
    try:
        import datasets
        import huggingface_hub  # noqa: F401 - pin needs it
    except ImportError:
        raise DataError(f"{name}: the Hub needs the datasets library: pip install 'gptworks[data]'") from None
    datasets.disable_progress_bars()
    return datasets


@contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's libraries into a DataError that says what to do."""
    try:
        yield
    except Exception as error:
        # Each version of the client passes on errors of its own HTTP library, so no list of types is complete.
        library = type(error).__module__.partition(".")[0]
        known = isinstance(error, OSError | ValueError) or library.startswith(LIBRARIES)
        if not known and "no longer supported" not in first_line(error):  # a RuntimeError from datasets
            raise
        repository = parse_name(name.partition(" ")[0])[0]
        raise DataError(f"{name}: {explain_error(error, repository, 'dataset')}") from None


@lru_cache(maxsize=8)
def open_stream(pinned: str) -> Any:
    """The rows of a pinned split as a stream."""
    import datasets

    spec = json.loads(pinned)
    return datasets.load_dataset(
        spec["repository"],
        spec["configuration"],
        split=spec["split"],
        revision=spec["revision"],
        streaming=True,
    )


def batches(pinned: str, keys: Keys, state: State | None) -> Iterator[tuple[list[Document], State]]:
    """Batches of documents from where `state` points, each with the state after it."""
    name, row = f"hf:{json.loads(pinned)['repository']}", 0
    with explain_errors(name):
        stream = _arrow_stream(pinned, name, keys)
        if state is not None:
            row = state["row"]
            stream.load_state_dict(state["stream"])
        for table in stream.iter(batch_size=ROWS):
            texts, subsets = (column(table, key, table.num_rows) for key in (keys.text, keys.subset))
            documents = [
                from_record({keys.text: text, keys.subset: subset}, keys, row + number)
                for number, (text, subset) in enumerate(zip(texts, subsets, strict=True), start=1)
            ]
            row += table.num_rows
            yield documents, {"row": row, "stream": stream.state_dict()}


def _arrow_stream(pinned: str, name: str, keys: Keys) -> Any:
    """The dataset as Arrow tables with only the columns that `keys` needs."""
    stream = open_stream(pinned)
    if names := stream.column_names:
        wanted = {part for key in keys if key for part in (key, key.partition(".")[0]) if part in names}
        if wanted.isdisjoint((keys.text, keys.text.partition(".")[0])):
            raise no_column(name, keys.text, names)
        stream = stream.select_columns(sorted(wanted))
    return stream.with_format("arrow")


def read_tables(name: str, limit: int | None) -> list[tuple[str, Table]]:
    """Every split of a dataset as a table of its first `limit` rows, for data that fits into memory.

    Raises:
        DataError: the dataset or configuration does not exist, or the Hub cannot be reached.
    """
    repository, configuration, revision = parse_name(name)
    datasets = _import_datasets(name)
    with explain_errors(name):
        dataset = datasets.load_dataset(repository, configuration, revision=revision, streaming=True)
        return [
            (str(split), _table(f"{name} (split {split})", rows if limit is None else rows.take(limit)))
            for split, rows in dataset.items()
        ]


def _table(name: str, rows: Any) -> Table:
    columns: dict[str, list[Any]] = {}
    for batch in rows.iter(batch_size=ROWS):
        for column_name, values in batch.items():
            columns.setdefault(column_name, []).extend(values)
    return Table(name, _with_class_names(columns, rows.features))


def rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one split as a stream; class ids become class names, or None where a row has no class.

    Raises:
        DataError: the dataset, configuration or split does not exist, or the Hub cannot be reached.
    """
    pinned = pin(name, split)
    with explain_errors(f"{name} (split {split})"):
        stream = open_stream(pinned)
        for batch in stream.iter(batch_size=ROWS):
            columns = _with_class_names(batch, stream.features)
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))


def _with_class_names(columns: dict[str, list[Any]], features: Any) -> dict[str, list[Any]]:
    """The columns with class names in place of class ids."""
    named = dict(columns)
    for name, feature in (features or {}).items():
        if names := getattr(feature, "names", None):
            named[name] = [None if n is None or n < 0 else names[n] for n in columns.get(name, [])]
    return named


def read_records(name: str, split: str, limit: int | None = None) -> tuple[str, list[Record]]:
    """A dataset's name with its revision, and the first `limit` rows of a split; for evaluation sets.

    Raises:
        DataError: the dataset or split does not exist or is empty, or the Hub cannot be reached.
    """
    pinned = pin(name, split)
    revision = json.loads(pinned)["revision"]
    with explain_errors(name):
        values = [dict(value) for value in islice(open_stream(pinned), limit)]
    if not values:
        raise DataError(f"{name} has no examples in its {split} split")
    records = [Record(f"{name} ({split}) row {row}", value) for row, value in enumerate(values)]
    return f"{name}@{revision[:12]} ({split})", records
