"""Statistics of a Dataset: how often each token occurs, how long documents are. From its files, if they are there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptworks.data.dataset import Dataset, Split
from gptworks.errors import UserError
from gptworks.report import style
from gptworks.report.logs import Logged
from gptworks.report.style import COLOURS, Picture
from gptworks.wording import counted

SAMPLE = 2_000_000
"""Tokens (and documents) that are looked at, from the beginning of the split."""

TOP = 12


@dataclass(frozen=True)
class Statistics:
    """Of one Dataset."""

    facts: dict[str, Any]
    top: list[tuple[str, float]]
    """The most frequent tokens, as text, with their share."""
    pictures: list[Picture]


def datasets(logged: Sequence[Logged]) -> list[Statistics]:
    """One for each Dataset the runs were trained on whose folder is still there, and the same."""
    found: dict[str, Statistics] = {}
    for one in logged:
        folder, wanted = one.environment.get("dataset"), str(one.environment.get("dataset_fingerprint"))
        if folder is None or wanted in found or not (Path(folder) / "manifest.json").is_file():
            continue
        try:
            dataset = Dataset.open(Path(folder), verify=False)
            if dataset.fingerprint == wanted:
                found[wanted] = _statistics(dataset, len(found))
        except (UserError, OSError, ValueError, json.JSONDecodeError):
            continue  # altered or half gone: a page about a run says nothing of it
    return list(found.values())


def _statistics(dataset: Dataset, number: int) -> Statistics:
    train = dataset.split("train")
    facts: dict[str, Any] = {"Dataset": str(dataset.path), "fingerprint": dataset.fingerprint[:16]}
    for name in ("train", "val"):
        if (split := dataset.split(name)) is not None and split.n_tokens:
            told = f"{split.n_tokens:,} tokens in {counted(split.n_documents, 'document')}"
            facts[name] = f"{told}, {dataset.bytes_per_token(name):.2f} bytes of text per token"
    facts["vocabulary"] = f"{dataset.vocab_size:,}"
    if train is None or not train.n_tokens:
        return Statistics(facts, [], [])
    counts = frequencies(train, dataset.vocab_size)
    shares = counts / counts.sum()
    used = shares[shares > 0]
    facts["occurring in training text"] = (
        f"{len(used):,} ({len(used) / dataset.vocab_size:.1%} of the vocabulary)"
    )
    facts["entropy of single tokens"] = f"{-(used * np.log(used)).sum():.3f} nats"
    if counts.sum() < train.n_tokens:
        facts["looked at"] = f"the first {int(counts.sum()):,} tokens"
    lengths = document_lengths(train)
    facts["document length"] = "median {:,.0f}, 90 % under {:,.0f}, longest {:,.0f} tokens".format(
        *np.quantile(lengths, (0.5, 0.9, 1))
    )
    tokenizer = dataset.tokenizer()
    special = {id: name for name, id in tokenizer.special_tokens.items()}
    often = np.argsort(-counts, kind="stable")[:TOP].tolist()
    top = [(special.get(id) or repr(tokenizer.decode([id]))[1:-1], float(shares[id])) for id in often]
    return Statistics(facts, top, [_ranks(used, number), _lengths(lengths, number)])


def frequencies(split: Split, vocab_size: int) -> np.ndarray:
    """(V,) how often each token occurs in the first SAMPLE tokens."""
    counts, left = np.zeros(vocab_size, dtype=np.int64), SAMPLE
    for shard in split.shards:
        tokens = shard.tokens[: max(0, left)]
        counts += np.bincount(tokens, minlength=vocab_size)[:vocab_size]
        left -= len(tokens)
    return counts


def document_lengths(split: Split) -> np.ndarray:
    """Tokens of the first documents, marks included."""
    parts, left = [], SAMPLE
    for shard in split.shards:
        ends = np.asarray(shard.ends[: max(0, left)], dtype=np.int64)
        parts.append(np.diff(ends, prepend=0))
        left -= len(ends)
    return np.concatenate(parts)


def _ranks(shares: np.ndarray, number: int) -> Picture:
    ordered = np.sort(shares)[::-1]
    some = np.unique(np.geomspace(1, len(ordered), min(len(ordered), 300)).astype(int))

    def draw(axes: Axes) -> None:
        axes.plot(some, ordered[some - 1], color=COLOURS[0])
        axes.set_xscale("log")
        axes.set_yscale("log")
        style.powers(axes.yaxis)
        style.short_log(axes.xaxis)

    words = "How often the most frequent token occurs, the second, and so on. A straight line is Zipf's law."
    return style.picture(
        f"tokens-{number}", "share of training tokens", draw, x="rank of the token", caption=words
    )


def _lengths(lengths: np.ndarray, number: int) -> Picture:
    edges = np.geomspace(max(1, lengths.min()), lengths.max() + 1, 40)

    def draw(axes: Axes) -> None:
        counts, _ = np.histogram(lengths, edges)
        axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.55)
        axes.set_xscale("log")
        style.short_log(axes.xaxis)
        style.short_numbers(axes.yaxis)

    words = (
        "Each bar is as wide as its neighbours on this logarithmic axis. Marks between documents are counted."
    )
    return style.picture(f"documents-{number}", "documents", draw, x="length in tokens", caption=words)
