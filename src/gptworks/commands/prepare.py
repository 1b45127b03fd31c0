"""`gptworks prepare`: texts in, a Dataset out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gptworks import runs
from gptworks.errors import ConfigError
from gptworks.messages import counted
from gptworks.recipe import PrepareOptions, Recipe

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.data.intake import PrepareProgress

PLAIN_SECONDS = 10
"""Seconds between lines of progress without a terminal."""

GPT2_TOKENS = 20_000_000
"""On fewer tokens, a model of GPT-2's size learns little more than to repeat them."""


def prepare(
    recipe: Annotated[Path | None, Parameter(help="A TOML recipe; flags override it.")] = None,
    /,
    *,
    data: Annotated[Path | None, Parameter(name="--out", help="Folder of the Dataset.")] = None,
    tokenizer: Annotated[
        str | None, Parameter(help="gpt2, r50k_base, a folder or tokenizer.json, a run, or a Hub id.")
    ] = None,
    prepare: Annotated[PrepareOptions, Parameter(name="*")] = PrepareOptions(),  # noqa: B008 - frozen
) -> None:
    """Turn texts into a Dataset: tokens ready to train on.

    After a kill or a full disk, the same command resumes; the result is the same to the byte.
    """
    finished = data is not None and (data / "manifest.json").exists()
    start_time = time.monotonic()
    dataset = make_dataset(Recipe(data=data, tokenizer=tokenizer, prepare=prepare))
    if finished:
        print(f"{data} is already up to date")
    _print_summary(dataset, None if finished else time.monotonic() - start_time)
    print(_next_command(dataset, recipe))


def make_dataset(recipe: Recipe) -> Dataset:
    """Prepare the Dataset of a recipe, or finish it; one that is up to date is only opened.

    Raises:
        ConfigError, DataError: an option is missing or impossible, or a source cannot be read.
    """
    data, tokenizer, options = recipe.data, recipe.tokenizer, recipe.prepare
    if data is None or tokenizer is None:
        missing = (
            "--out DATASET"
            if data is None
            else "--tokenizer NAME_OR_FOLDER (gpt2, or from `tokenizer train`)"
        )
        raise ConfigError(f"prepare needs {missing}")
    from gptworks.data.dataset import FEW_DOCUMENTS
    from gptworks.data.prepare import prepare
    from gptworks.reports import terminal
    from gptworks.text.tokenizer import Tokenizer

    name, checkpoint = runs.split_spec(tokenizer)
    folder = runs.Run(Path(name)).checkpoint(checkpoint) if runs.is_run(Path(name)) else tokenizer
    vocabulary = Tokenizer.load(folder)
    new = [name for name in options.add_tokens if name not in vocabulary.special_tokens]
    vocabulary = vocabulary.with_special_tokens(new) if new else vocabulary
    with terminal.status("reading") as update:
        display = _Display(update, live=terminal.err.is_terminal)
        dataset = prepare(options, vocabulary, data, display.show)
    for note in dataset.manifest["notes"]:
        terminal.say(f"note: {note}")
    if "train" in dataset.splits and (few := dataset.splits["train"].n_documents) < FEW_DOCUMENTS:
        terminal.say(
            f"note: only {counted(few, 'document')} to train on: the model hardly sees how a text begins, so give it a "
            "prompt (generate --prompt '...')"
        )
    return dataset


class _Display:
    """Progress on stderr: a live line, or a plain line every PLAIN_SECONDS."""

    def __init__(self, update: Callable[[str], object], *, live: bool) -> None:
        self.update, self.live, self.last = update, live, time.monotonic()

    def show(self, progress: PrepareProgress) -> None:
        from gptworks.reports import terminal

        if self.live:
            self.update(_line(progress))
        elif time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            terminal.say(_line(progress))


def _line(progress: PrepareProgress) -> str:
    share = "" if progress.fraction is None else f" {progress.fraction:4.0%}"
    if progress.stage == "writing":
        return f"writing shards{share}"
    return (
        f"{progress.source}{share}  {progress.documents:,} documents  {progress.text_bytes / 1e6:,.0f} MB  "
        f"{progress.megabytes_per_second:,.1f} MB/s"
    )


def _print_summary(dataset: Dataset, seconds: float | None) -> None:
    """Print the size of each split, and the dropped, cut and unreadable documents of each source."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("split", "documents", "tokens", "text", "bytes/token", "shards"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in dataset.splits.items():
        sizes = (f"{split.n_documents:,}", f"{split.n_tokens:,}", f"{split.text_bytes / 1e6:,.1f} MB")
        table.add_row(name, *sizes, f"{split.text_bytes / split.n_tokens:.2f}", str(len(split.shards)))
    Console(highlight=False).print(table)
    for source in dataset.manifest["sources"]:
        counts = [f"{n:,} dropped: {reason}" for reason, n in source["dropped"].items()]
        counts += [f"{n:,} cut to max_{unit}" for unit, n in source["cut"].items()]
        if counts:
            print(f"{source['name']}: {', '.join(counts)}")
        for remark in source["invalid"][:3]:
            print(f"  {remark}")
    if seconds is not None:
        megabytes = sum(split.text_bytes for split in dataset.splits.values()) / 1e6
        print(f"{megabytes:,.1f} MB in {seconds:.1f} s: {megabytes / seconds:,.1f} MB/s")


def _next_command(dataset: Dataset, recipe: Path | None) -> str:
    plan = f"gptworks plan --hours 1 --data {dataset.path} --out recipe.toml"
    if recipe is not None:
        train = f"gptworks pretrain {recipe} --data {dataset.path}"
    elif sum(split.n_tokens for split in dataset.splits.values()) < GPT2_TOKENS:
        return f"next, for a model that fits the text and your time: {plan}"
    else:
        train = f"gptworks pretrain --data {dataset.path} --out RUN --model.preset gpt2"
    return f"next: {train}\nor, for a model that fits your time: {plan}"
