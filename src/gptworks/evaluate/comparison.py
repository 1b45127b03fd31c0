"""Two models on the same examples: the difference, and whether it is one. Unlike scores are never set side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from gptworks.errors import ConfigError
from gptworks.evaluate.results import Score, aligned, unlike
from gptworks.evaluate.statistics import difference

Scored = tuple[Score, dict[str, Any]]
"""A score, and the row it was kept as."""


def compare(first: Sequence[Scored], second: Sequence[Scored]) -> list[dict[str, Any]]:
    """What is the same measure of both, as differences of the second from the first, with a paired test.

    Raises:
        ConfigError: a measure of the same name that is not the same measure.
    """
    found = []
    others = {(row["task"], row["metric"]): (score, row) for score, row in second}
    for score, row in first:
        key = (row["task"], row["metric"])
        if key not in others:
            continue
        other, its = others[key]
        if wrong := unlike(row, its):
            raise ConfigError(
                f"{key[0]} {key[1]} of {row['model']} and {its['model']} are not the same measure: they differ in "
                f"{', '.join(wrong)}"
            )
        if not len(score.samples) or len(score.samples) != len(other.samples):
            continue
        tested = difference(score.samples, other.samples, score.form)
        found.append(
            {
                "task": key[0],
                "metric": key[1],
                "split": row["split"],
                "n": row["n"],
                "of": row["of"],
                "models": [row["model"], its["model"]],
                "values": [row["value"], its["value"]],
                "difference": tested.value,
                "interval_95": tested.interval,
                "p": tested.p,
                "test": tested.test,
            }
        )
    return found


def refuse_per_token(fingerprints: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Stop before anything is measured that could not be compared.

    Raises:
        ConfigError: a perplexity per token is asked of models with different tokenizers.
    """
    if len(set(fingerprints.values())) > 1 and (
        spec := next((t for t in tasks if t.startswith("perplexity")), None)
    ):
        raise ConfigError(
            f"{' and '.join(fingerprints)} have different tokenizers, so a perplexity per token compares nothing; "
            f"--tasks bits_per_byte:{spec.partition(':')[2]} does"
        )


def table(compared: Sequence[Mapping[str, Any]]) -> str:
    """Differences one below the other."""
    lines = [("task", "metric", "split", "n", "models", "values", "difference", "95 %", "p", "test")]
    for one in compared:
        low, high = one["interval_95"]
        lines.append(
            (
                one["task"],
                one["metric"],
                one["split"] if one["split"] != "unknown" else "?",
                f"{one['n']:,}",
                " -> ".join(one["models"]),
                " -> ".join(f"{value:.4f}" for value in one["values"]),
                f"{one['difference']:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{one['p']:.3g}",
                one["test"],
            )
        )
    return aligned(lines)
