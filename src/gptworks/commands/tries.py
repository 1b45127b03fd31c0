"""Several tries of one fine-tuning with other seeds: each a Run in RUN/tries/N; RUN becomes the best of them.

The best is chosen on validation, never on the test. Of tries that are through only the best one's checkpoints are
kept, so that many tries take no more disk than two.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptworks.commands.given import already_held
from gptworks.commands.leaving import between_runs
from gptworks.commands.start import Job, start_in, voice
from gptworks.errors import ConfigError
from gptworks.recipe import ClassifyOptions, Recipe

if TYPE_CHECKING:
    from gptworks.data.examples import Examples
    from gptworks.world import World

Settle = Callable[[Recipe, "World", Path | None], Job]

OF_NUMBERS = {"loss", "pearson", "spearman"}
"""Scores to choose by where a number is predicted; of classes there are loss and all others."""


@dataclasses.dataclass(frozen=True)
class Lessons:
    """What all tries learn from."""

    path: Path
    fingerprint: str
    tokenizer_fingerprint: str


def run_tries(recipe: Recipe, examples: Examples, settle: Settle, *, resume: bool) -> str | None:
    """Do, or go on with, every try; returns what stopped one early, or None.

    Raises:
        ConfigError: there is nothing to choose by, or the run is there already.
    """
    from gptworks import runs
    from gptworks.model import checkpoint
    from gptworks.train import record
    from gptworks.train.guard import leaving_at_once
    from gptworks.world import world

    run, options = recipe.out, recipe.classify
    assert run is not None
    assert recipe.base is not None
    _check(recipe, examples)
    if not resume and (runs.is_run(run) or (run / "tries").exists()):
        raise ConfigError(already_held(run))
    tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(recipe.base))
    lessons = Lessons(examples.path, examples.fingerprint, tokenizer.fingerprint)
    # Each try's own folder is locked besides, but not the time between two.
    with leaving_at_once(between_runs), world(recipe.train.wait_minutes) as w, runs.locked(run, hold=w.main):
        say = voice(w)
        if resume:
            record.check_same(recipe, lessons, say, record.FINETUNING_IGNORES)
        to_do = [number for number in range(1, options.tries + 1) if not is_through(run, number)]
        if w.main:
            record.write(recipe, lessons, w, record.FINETUNING_IGNORES)
        for number in to_do:
            say(f"try {number} of {options.tries}: train.seed {recipe.train.seed + number - 1}")
            if reason := start_in(w, of(recipe, number), settle, resume=resume):
                return reason
            if w.main:
                keep_best(run, options)
        if w.main:
            summary = summarise(run, recipe)
            adopt(run, summary["kept"])
            runs.write_json(run / "results" / "tries.json", summary)
            for line in lines(summary):
                print(line)
            print(f"{run}: try {summary['kept']} of {options.tries}, the best by {summary['kept_by']}")
            say(f"next: gptworks classify {run} --text '...'")
    return None


def _check(recipe: Recipe, examples: Examples) -> None:
    keep_by = recipe.classify.keep_by
    if recipe.train.max_hours is not None:
        raise ConfigError("--tries and train.max_hours exclude each other: leave out one")
    if not examples.splits["val"]:
        raise ConfigError("--tries chooses by validation, and there is none: give --val-fraction more than 0")
    if keep_by != "loss" and (keep_by in OF_NUMBERS) == bool(examples.labels):
        kind = "classes" if examples.labels else "numbers"
        raise ConfigError(f"--keep-by {keep_by} is no score of {kind}, which these labels are")


def of(recipe: Recipe, number: int) -> Recipe:
    """The recipe of one try, counted from 1: the first is what a run without tries would be."""
    assert recipe.out is not None
    return dataclasses.replace(
        recipe,
        out=folder(recipe.out, number),
        classify=dataclasses.replace(recipe.classify, tries=1),
        train=dataclasses.replace(recipe.train, seed=recipe.train.seed + number - 1),
    )


def folder(run: Path, number: int) -> Path:
    """A try's own run."""
    return run / "tries" / str(number)


def is_through(run: Path, number: int) -> bool:
    """True if a try was trained and measured: its scores on validation are written last."""
    return (folder(run, number) / "results" / "classify-val.json").is_file()


def scores(run: Path, number: int, split: str) -> dict[str, float]:
    """What was measured of a try's last checkpoint, a number each; none where there is no such split."""
    file = folder(run, number) / "results" / f"classify-{split}.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))["scores"]["last"]
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def keep_best(run: Path, options: ClassifyOptions) -> int:
    """Throw away the checkpoints of every try that is through, but the best one's; returns its number."""
    through = [number for number in range(1, options.tries + 1) if is_through(run, number)]
    best = max(through, key=lambda number: (_merit(scores(run, number, "val"), options.keep_by), -number))
    for number in through:
        if number != best:
            shutil.rmtree(folder(run, number) / "checkpoints", ignore_errors=True)
    return best


def _merit(found: dict[str, float], keep_by: str) -> float:
    """More is better; a score that is not defined is worst."""
    if keep_by == "loss":
        return -found.get("loss", found.get("mse", math.inf))
    return found.get(keep_by, -math.inf)


def summarise(run: Path, recipe: Recipe) -> dict[str, Any]:
    """Every try's scores, and their mean, standard deviation (of the sample) and value in the try that is kept."""
    options = recipe.classify
    kept = keep_best(run, options)
    tries: list[dict[str, Any]] = [
        {"try": number, "seed": recipe.train.seed + number - 1}
        | {split: scores(run, number, split) for split in ("val", "test")}
        for number in range(1, options.tries + 1)
    ]
    result: dict[str, Any] = {"kept": kept, "kept_by": f"validation {options.keep_by}", "tries": tries}
    for split in ("val", "test"):
        of_kept = tries[kept - 1][split]
        result[split] = {
            name: spread([row[split][name] for row in tries if name in row[split]]) | {"kept": of_kept[name]}
            for name in of_kept.keys() - {"n"}
        }
    return result


def spread(values: list[float]) -> dict[str, float | int | None]:
    """How many, their mean, and standard deviation (None of one)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"n": len(values), "mean": statistics.fmean(values), "standard_deviation": deviation}


def adopt(run: Path, number: int) -> None:
    """Make the run's folder the run of its best try, whose checkpoints move there."""
    best = folder(run, number)
    for part in ("results", "plots"):
        shutil.copytree(best / part, run / part, dirs_exist_ok=True)
    shutil.copyfile(best / "metrics.jsonl", run / "metrics.jsonl")
    if (
        best / "checkpoints"
    ).is_dir():  # or a kill came between this line and the next: they are there already
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        (best / "checkpoints").rename(run / "checkpoints")


def lines(summary: dict[str, Any]) -> list[str]:
    """Mean, standard deviation and kept value of the scores people ask for first."""
    split = "test" if summary["test"] else "val"
    found = summary[split]
    return [f"{split}, {name}: {_line(found[name])}" for name in SAID if name in found]


def _line(told: dict[str, Any]) -> str:
    if told["n"] == 1:
        return f"{told['kept']:.4f} in the try kept, not defined in the others"
    return (
        f"{told['mean']:.4f} +- {told['standard_deviation']:.4f} over {told['n']} tries; "
        f"{told['kept']:.4f} in the one kept"
    )


SAID = ("accuracy", "macro_f1", "matthews", "roc_auc", "mse", "pearson", "spearman")
