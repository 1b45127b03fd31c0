"""Statistics of a training Dataset, if its files still exist: token frequencies and document lengths."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptworks.data.dataset import Dataset, Split
from gptworks.errors import UserError
from gptworks.messages import counted
from gptworks.reports import style
from gptworks.reports.logs import RunLog
from gptworks.reports.style import COLOURS, Picture

SAMPLE = 2_000_000
"""Tokens, and documents, to read from the beginning of the split."""

TOP = 12
"""Most frequent tokens to list."""


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of one Dataset."""

    facts: dict[str, Any]
    top: list[tuple[str, float]]
    """(text, share) of the most frequent tokens."""
    pictures: list[Picture]


def datasets(logs: Sequence[RunLog]) -> list[DatasetStatistics]:
    """Statistics of each Dataset the runs were trained on, if its folder still exists with the same fingerprint."""
    by_fingerprint: dict[str, DatasetStatistics] = {}
    for log in logs:
        folder, wanted = log.environment.get("dataset"), str(log.environment.get("dataset_fingerprint"))
        if folder is None or wanted in by_fingerprint or not (Path(folder) / "manifest.json").is_file():
            continue
        try:
            dataset = Dataset.open(Path(folder), verify=False)
            if dataset.fingerprint == wanted:
                by_fingerprint[wanted] = _statistics(dataset, len(by_fingerprint))
        except (UserError, OSError, ValueError, json.JSONDecodeError):
            continue  # damaged since the run, so the page leaves it out
    return list(by_fingerprint.values())


def _statistics(dataset: Dataset, number: int) -> DatasetStatistics:
    train = dataset.split("train")
    facts: dict[str, Any] = {"Dataset": str(dataset.path), "fingerprint": dataset.fingerprint[:16]}
    for name in ("train", "val"):
        if (split := dataset.split(name)) is not None and split.n_tokens:
            size = f"{split.n_tokens:,} tokens in {counted(split.n_documents, 'document')}"
            facts[name] = f"{size}, {dataset.bytes_per_token(name):.2f} bytes of text per token"
    facts["vocabulary size"] = f"{dataset.vocab_size:,}"
    if train is None or not train.n_tokens:
        return DatasetStatistics(facts, [], [])
    counts = frequencies(train, dataset.vocab_size)
    shares = counts / counts.sum()
    used = shares[shares > 0]
    facts["distinct tokens"] = f"{len(used):,} ({len(used) / dataset.vocab_size:.1%} of the vocabulary)"
    facts["unigram entropy"] = f"{-(used * np.log(used)).sum():.3f} nats"
    if counts.sum() < train.n_tokens:
        facts["computed from"] = f"the first {int(counts.sum()):,} tokens"
    lengths = document_lengths(train)
    facts["document length"] = "median {:,.0f}, 90th percentile {:,.0f}, longest {:,.0f} tokens".format(
        *np.quantile(lengths, (0.5, 0.9, 1))
    )
    tokenizer = dataset.tokenizer()
    special = {id: name for name, id in tokenizer.special_tokens.items()}
    most_frequent = np.argsort(-counts, kind="stable")[:TOP].tolist()
    top = [(special.get(id) or repr(tokenizer.decode([id]))[1:-1], float(shares[id])) for id in most_frequent]
    return DatasetStatistics(facts, top, [_ranks(used, number), _lengths(lengths, number)])


def frequencies(split: Split, vocab_size: int) -> np.ndarray:
    """(V,) counts of each token in the first SAMPLE tokens."""
    counts, left = np.zeros(vocab_size, dtype=np.int64), SAMPLE
    for shard in split.shards:
        tokens = shard.tokens[: max(0, left)]
        counts += np.bincount(tokens, minlength=vocab_size)[:vocab_size]
        left -= len(tokens)
    return counts


def document_lengths(split: Split) -> np.ndarray:
    """Lengths of the first SAMPLE documents in tokens, including separators."""
    lengths, left = [], SAMPLE
    for shard in split.shards:
        ends = np.asarray(shard.ends[: max(0, left)], dtype=np.int64)
        lengths.append(np.diff(ends, prepend=0))
        left -= len(ends)
    return np.concatenate(lengths)


def _ranks(shares: np.ndarray, number: int) -> Picture:
    ordered = np.sort(shares)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), min(len(ordered), 300)).astype(int))

    def draw(axes: Axes) -> None:
        axes.plot(ranks, ordered[ranks - 1], color=COLOURS[0])
        axes.set_xscale("log")
        axes.set_yscale("log")
        style.powers(axes.yaxis)
        style.short_log(axes.xaxis)

    caption = "Token frequencies in descending order. Zipf's law would be a straight line."
    title = "share of training tokens"
    return style.draw(f"tokens-{number}", title, draw, x="rank of the token", caption=caption)


def _lengths(lengths: np.ndarray, number: int) -> Picture:
    edges = np.geomspace(max(1, lengths.min()), lengths.max() + 1, 40)

    def draw(axes: Axes) -> None:
        counts, _ = np.histogram(lengths, edges)
        axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.55)
        axes.set_xscale("log")
        style.short_log(axes.xaxis)
        style.short_numbers(axes.yaxis)

    caption = "Bins have equal widths on the logarithmic axis. Lengths include separators."
    return style.draw(f"documents-{number}", "documents", draw, x="length in tokens", caption=caption)
