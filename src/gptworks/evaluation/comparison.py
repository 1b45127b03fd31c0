"""Two models on the same examples: the difference of their scores with a paired test, for equal measures only."""

from collections.abc import Mapping, Sequence
from typing import Any

from gptworks.errors import ConfigError
from gptworks.evaluation.scores import Score, aligned
from gptworks.evaluation.statistics import difference
from gptworks.results import Result

Scored = tuple[Score, Result]
"""A score with its samples, and the result it was saved as."""


def compare(first: Sequence[Scored], second: Sequence[Scored]) -> list[dict[str, Any]]:
    """Differences of the second model from the first in every metric that both have, each with a paired test.

    Raises:
        ConfigError: two metrics have the same name but are not the same measure.
    """
    differences = []
    others = {(result.task, result.metric): (score, result) for score, result in second}
    for score, result in first:
        if (result.task, result.metric) not in others:
            continue
        other_score, other = others[result.task, result.metric]
        if keys := result.differs_in(other):
            raise ConfigError(
                f"{result.task} {result.metric} of {result.model} and {other.model} are not the same measure: "
                f"they differ in {', '.join(keys)}"
            )
        if not len(score.samples) or len(score.samples) != len(other_score.samples):
            continue
        tested = difference(score.samples, other_score.samples, score.form)
        differences.append(
            {
                "task": result.task,
                "metric": result.metric,
                "split": result.split,
                "n": result.n,
                "of": result.of,
                "models": [result.model, other.model],
                "values": [result.value, other.value],
                "difference": tested.value,
                "interval_95": tested.interval,
                "p": tested.p,
                "test": tested.test,
            }
        )
    return differences


def refuse_per_token(fingerprints: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Refuse, before anything is measured, to compare per-token perplexities across tokenizers.

    Raises:
        ConfigError: the tasks include a perplexity, and the models' tokenizers differ.
    """
    perplexity = next((task for task in tasks if task.startswith("perplexity")), None)
    if perplexity and len(set(fingerprints.values())) > 1:
        raise ConfigError(
            f"{' and '.join(fingerprints)} have different tokenizers, so their perplexities per token are not "
            f"comparable; use --tasks bits_per_byte:{perplexity.partition(':')[2]}"
        )


def table(differences: Sequence[Mapping[str, Any]]) -> str:
    """Differences one below the other."""
    lines = [("task", "metric", "split", "n", "models", "values", "difference", "95 %", "p", "test")]
    for row in differences:
        low, high = row["interval_95"]
        lines.append(
            (
                row["task"],
                row["metric"],
                "?" if row["split"] == "unknown" else row["split"],
                f"{row['n']:,}",
                " -> ".join(row["models"]),
                " -> ".join(f"{value:.4f}" for value in row["values"]),
                f"{row['difference']:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                f"{row['p']:.3g}",
                row["test"],
            )
        )
    return aligned(lines)
