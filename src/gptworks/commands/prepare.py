"""`gptworks prepare`: texts in, a Dataset out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gptworks import runs
from gptworks.errors import ConfigError
from gptworks.recipe import PrepareOptions
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.data.intake import Progress

PLAIN_SECONDS = 10
"""Where there is no terminal, a line of progress this often."""

GPT2_TOKENS = 20_000_000
"""Of fewer, a model as large as GPT-2 learns little but to repeat them."""


def prepare(
    recipe: Annotated[Path | None, Parameter(help="A TOML recipe; flags beat it.")] = None,
    /,
    *,
    data: Annotated[Path | None, Parameter(name="--out", help="Folder of the Dataset.")] = None,
    tokenizer: Annotated[
        str | None, Parameter(help="gpt2, r50k_base, a folder or tokenizer.json, a run, or a Hub id.")
    ] = None,
    prepare: Annotated[PrepareOptions, Parameter(name="*")] = PrepareOptions(),  # noqa: B008 - frozen
) -> None:
    """Turn texts into a Dataset: tokens ready to train on.

    Killed or out of disk, the same command goes on where it stopped; the result is the same to the byte.
    """
    if data is None or tokenizer is None:
        missing = (
            "--out DATASET" if data is None else "--tokenizer DIR_OR_NAME (gpt2, or one of `tokenizer train`)"
        )
        raise ConfigError(f"prepare needs {missing}")
    from gptworks.data.dataset import FEW_DOCUMENTS, MANIFEST
    from gptworks.data.prepare import prepare as run
    from gptworks.report import terminal
    from gptworks.text.tokenizer import Tokenizer

    name, which = runs.split_spec(tokenizer)
    made_with = runs.find_checkpoint(Path(name), which) if runs.is_run(Path(name)) else tokenizer
    vocabulary = Tokenizer.load(made_with)
    new = [name for name in prepare.add_tokens if name not in vocabulary.special_tokens]
    vocabulary = vocabulary.with_special_tokens(new) if new else vocabulary
    there = (data / MANIFEST).exists()
    started = time.monotonic()
    with terminal.err.status("reading") as status:
        display = _Display(status.update, live=terminal.err.is_terminal)
        dataset = run(prepare, vocabulary, data, display.show)
    for note in dataset.manifest["notes"]:
        terminal.say(f"note: {note}")
    if "train" in dataset.splits and (few := dataset.splits["train"].n_documents) < FEW_DOCUMENTS:
        terminal.say(
            f"note: {counted(few, 'document')} to train on: a model hardly sees a text begin, so give it a prompt "
            "to go on from (generate --prompt '...')"
        )
    if there:
        print(f"{data} is there already, of the same inputs: nothing to do")
    _tell(dataset, None if there else time.monotonic() - started, recipe)


class _Display:
    """Progress on stderr: a live line, or a plain one now and then."""

    def __init__(self, update, *, live: bool) -> None:
        self.update, self.live, self.last = update, live, time.monotonic()

    def show(self, progress: Progress) -> None:
        from gptworks.report import terminal

        if self.live:
            self.update(_line(progress))
        elif time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            terminal.say(_line(progress))


def _line(progress: Progress) -> str:
    share = "" if progress.fraction is None else f" {progress.fraction:4.0%}"
    if progress.stage == "writing":
        return f"writing shards{share}"
    return (
        f"{progress.source}{share}  {progress.documents:,} documents  {progress.text_bytes / 1e6:,.0f} MB  "
        f"{progress.megabytes_per_second:,.1f} MB/s"
    )


def _tell(dataset: Dataset, seconds: float | None, recipe: Path | None) -> None:
    """What was made, and what to type next."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("split", "documents", "tokens", "text", "bytes/token", "shards"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in dataset.splits.items():
        facts = (f"{split.n_documents:,}", f"{split.n_tokens:,}", f"{split.text_bytes / 1e6:,.1f} MB")
        table.add_row(name, *facts, f"{split.text_bytes / split.n_tokens:.2f}", str(len(split.shards)))
    out = Console(highlight=False)
    out.print(table)
    for source in dataset.manifest["sources"]:
        counts = [f"{n:,} dropped: {why}" for why, n in source["dropped"].items()]
        counts += [f"{n:,} cut to {what}" for what, n in source["cut"].items()]
        if counts:
            out.print(f"{source['name']}: {', '.join(counts)}", markup=False, soft_wrap=True)
        for remark in source["invalid"][:3]:
            out.print(f"  {remark}", markup=False, soft_wrap=True)
    if seconds is not None:
        text = sum(split.text_bytes for split in dataset.splits.values())
        out.print(f"{text / 1e6:,.1f} MB in {seconds:.1f} s: {text / 1e6 / seconds:,.1f} MB/s")
    out.print(_next(dataset, recipe), markup=False, soft_wrap=True)


def _next(dataset: Dataset, recipe: Path | None) -> str:
    fitting = f"gptworks plan --hours 1 --data {dataset.path} --out recipe.toml"
    train = f"gptworks pretrain --data {dataset.path} --out RUN --model.preset gpt2"
    if recipe is not None:
        train = f"gptworks pretrain {recipe} --data {dataset.path}"
    elif sum(split.n_tokens for split in dataset.splits.values()) < GPT2_TOKENS:
        return f"next, a model of a size that text and time allow: {fitting}"
    return f"next: {train}\nor, for a size that the time allows: {fitting}"
