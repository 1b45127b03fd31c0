"""One fine-tuning with several seeds: each try is a Run in RUN/tries/N, and RUN becomes the best of them.

The best is chosen on validation, never on the test set. Of finished tries only the best one keeps its checkpoints, so
many tries need no more disk space than two.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from typing import TYPE_CHECKING, Any

from gptworks import files
from gptworks.commands import training
from gptworks.commands.cli_checks import already_held
from gptworks.commands.exit_status import between_runs
from gptworks.errors import ConfigError
from gptworks.recipe import ClassifyOptions, Recipe
from gptworks.reports import terminal
from gptworks.runs import Run

if TYPE_CHECKING:
    from gptworks.data.examples import Examples

REGRESSION_METRICS = {"loss", "pearson", "spearman"}
"""What best_metric may be for regression; classification has loss and all others."""

SHOWN = ("accuracy", "macro_f1", "matthews", "roc_auc", "mse", "pearson", "spearman")
"""Scores that are printed, if they are defined."""


def run_tries(recipe: Recipe, examples: Examples, *, resume: bool, device: str = "auto") -> str | None:
    """Train with every seed, or resume; returns what stopped a try early, or None.

    Raises:
        ConfigError: there is no validation score to choose by, or the run exists already.
    """
    from gptworks.commands.classifier import train_in
    from gptworks.processes import world
    from gptworks.train import record
    from gptworks.train.guard import exit_on_signal

    run, options = recipe.run, recipe.classify
    _check(recipe, examples)
    if not resume and (run.exists or (run / "tries").exists()):
        raise ConfigError(already_held(run))
    data = _provenance(recipe, examples)
    ignores = record.CLASSIFYING_IGNORES
    # Each try's own folder is locked as well, but not the time between two.
    with (
        exit_on_signal(between_runs),
        world(recipe.train.comm_timeout_minutes, device) as w,
        run.locked(hold=w.main),
    ):
        say = training.remarks(w)
        if resume:
            record.check_same(recipe, data, say, ignores)
        unfinished = [number for number in range(1, options.n_seeds + 1) if not is_finished(run, number)]
        if w.main:
            record.write(recipe, data, w, ignores)
        for number in unfinished:
            say(f"try {number} of {options.n_seeds}: train.seed {recipe.train.seed + number - 1}")
            if reason := train_in(w, recipe_of(recipe, number), examples, resume=resume, alone=False):
                return reason
            if w.main:
                keep_best(run, options)
        if w.main:
            summary = summarize(run, recipe)
            adopt(run, summary["kept"])
            files.write_json(run / "results" / "tries.json", summary)
            for line in lines(summary):
                terminal.show(line)
            terminal.show(
                f"{run}: try {summary['kept']} of {options.n_seeds}, the best by {summary['kept_by']}"
            )
            say(f"next: gptworks classify {run} --text '...'")
    return None


def _provenance(recipe: Recipe, examples: Examples) -> Any:
    from gptworks.model import checkpoint
    from gptworks.train.record import Provenance

    assert recipe.base is not None
    tokenizer = checkpoint.load_tokenizer(checkpoint.find_checkpoint(recipe.base))
    return Provenance(examples.path, examples.fingerprint, tokenizer.fingerprint)


def _check(recipe: Recipe, examples: Examples) -> None:
    metric = recipe.classify.best_metric
    if recipe.train.max_hours is not None:
        raise ConfigError("--n-seeds and train.max_hours exclude each other: leave out one")
    if not examples.splits["val"]:
        raise ConfigError("--n-seeds chooses by validation, and there is none: set --val-fraction above 0")
    if metric != "loss" and (metric in REGRESSION_METRICS) == bool(examples.labels):
        kind = "classification" if examples.labels else "regression"
        raise ConfigError(f"--best-metric {metric} does not apply to {kind}")


def recipe_of(recipe: Recipe, number: int) -> Recipe:
    """The recipe of one try, counted from 1. The first is what a run with one seed would be."""
    return dataclasses.replace(
        recipe,
        out=try_run(recipe.run, number).path,
        classify=dataclasses.replace(recipe.classify, n_seeds=1),
        train=dataclasses.replace(recipe.train, seed=recipe.train.seed + number - 1),
    )


def try_run(run: Run, number: int) -> Run:
    """A try's own run."""
    return Run(run / "tries" / str(number))


def is_finished(run: Run, number: int) -> bool:
    """True if a try was trained and scored: its scores on validation are written last."""
    return (try_run(run, number) / "results" / "classify-val.json").is_file()


def scores(run: Run, number: int, split: str) -> dict[str, float]:
    """The scores of a try's last checkpoint; empty if there is no such split."""
    file = try_run(run, number) / "results" / f"classify-{split}.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["scores"]["last"]
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def keep_best(run: Run, options: ClassifyOptions) -> int:
    """Delete the checkpoints of all finished tries except the best one; returns its number."""
    finished = [number for number in range(1, options.n_seeds + 1) if is_finished(run, number)]
    best = max(
        finished, key=lambda number: (_merit(scores(run, number, "val"), options.best_metric), -number)
    )
    for number in finished:
        if number != best:
            shutil.rmtree(try_run(run, number) / "checkpoints", ignore_errors=True)
    return best


def _merit(found: dict[str, float], metric: str) -> float:
    """Higher is better; an undefined score is worst."""
    if metric == "loss":
        return -found.get("loss", found.get("mse", math.inf))
    return found.get(metric, -math.inf)


def summarize(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Every try's scores, and their mean, sample standard deviation and value in the try that is kept."""
    options = recipe.classify
    kept = keep_best(run, options)
    tries: list[dict[str, Any]] = [
        {"try": number, "seed": recipe.train.seed + number - 1}
        | {split: scores(run, number, split) for split in ("val", "test")}
        for number in range(1, options.n_seeds + 1)
    ]
    result: dict[str, Any] = {"kept": kept, "kept_by": f"validation {options.best_metric}", "tries": tries}
    for split in ("val", "test"):
        best = tries[kept - 1][split]
        result[split] = {
            name: spread([row[split][name] for row in tries if name in row[split]]) | {"kept": best[name]}
            for name in best.keys() - {"n"}
        }
    return result


def spread(values: list[float]) -> dict[str, float | int | None]:
    """Count, mean and sample standard deviation (None for one value)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"n": len(values), "mean": statistics.fmean(values), "standard_deviation": deviation}


def adopt(run: Run, number: int) -> None:
    """Turn the run's folder into the run of its best try, whose checkpoints move there."""
    best = try_run(run, number)
    for part in ("results", "plots"):
        shutil.copytree(best / part, run / part, dirs_exist_ok=True)
    shutil.copyfile(best / "metrics.jsonl", run / "metrics.jsonl")
    if (best / "checkpoints").is_dir():  # else a kill came after this move
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        (best / "checkpoints").rename(run / "checkpoints")


def lines(summary: dict[str, Any]) -> list[str]:
    """Mean, standard deviation and kept value of the most important scores, in words."""
    split = "test" if summary["test"] else "val"
    found = summary[split]
    return [f"{split}, {name}: {_line(found[name])}" for name in SHOWN if name in found]


def _line(score: dict[str, Any]) -> str:
    if score["n"] == 1:
        return f"{score['kept']:.4f} in the kept try, undefined in the others"
    return (
        f"{score['mean']:.4f} +- {score['standard_deviation']:.4f} over {score['n']} tries; "
        f"{score['kept']:.4f} in the kept try"
    )
