"""A campaign's scores as curves over pretraining: the checkpoints of each run in order, and reference models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptworks import runs
from gptworks.errors import ConfigError
from gptworks.evaluation.glue import task_score
from gptworks.glue import records
from gptworks.glue.records import CellResult, GlueModel
from gptworks.glue.tasks import TASKS, GlueTask
from gptworks.runs import Run

AXES = {"epoch": "epochs of pretraining", "tokens": "tokens of pretraining", "step": "steps of pretraining"}
"""Possible x axes, the preferred one first."""


@dataclass(frozen=True)
class Spread:
    """A metric of one cell, in percentage points."""

    kept: float
    """Value of the best try."""
    mean: float
    deviation: float
    """Standard deviation over tries; 0 for a single one."""


@dataclass(frozen=True)
class ScoredModel:
    """A model and its results."""

    subject: GlueModel
    results: dict[str, CellResult]
    """By task; finished cells only."""

    def spread(self, task: str, metric: str) -> Spread | None:
        """A metric, or `score`, the mean of the metrics; None if the cell is not finished."""
        result = self.results.get(task)
        if result is None:
            return None
        kept = result.best.score if metric == "score" else result.best.metrics[metric]
        deviation = result.standard_deviation[metric] or 0.0
        return Spread(100 * kept, 100 * result.mean[metric], 100 * deviation)


@dataclass(frozen=True)
class Series:
    """The checkpoints of one pretraining run, by step."""

    name: str
    run: Run
    models: tuple[ScoredModel, ...]

    def at(self, axis: str) -> list[float]:
        """The checkpoints' positions on an axis."""
        return [float(getattr(model.subject, axis)) for model in self.models]


@dataclass(frozen=True)
class ChartData:
    """The data of all plots."""

    tasks: tuple[GlueTask, ...]
    series: tuple[Series, ...]
    models: tuple[ScoredModel, ...]
    """Reference models such as GPT-2, which are not checkpoints of a run."""
    baselines: dict[str, dict[str, float]]
    """Task -> metric -> value of the majority guess, in percentage points; `score` is the mean of the metrics."""

    @property
    def repeated(self) -> bool:
        """True if any cell had several tries."""
        models = [*(model for series in self.series for model in series.models), *self.models]
        return any(len(result.tries) > 1 for model in models for result in model.results.values())

    @property
    def axis(self) -> str:
        """The first axis on which all checkpoints have a position."""
        subjects = [model.subject for series in self.series for model in series.models]
        return next(axis for axis in AXES if all(getattr(subject, axis) is not None for subject in subjects))


def read(campaigns: Sequence[Path]) -> ChartData:
    """The results of campaigns so far; a run that appears in two of them is one curve.

    Raises:
        DataError: a folder is not a campaign.
        ConfigError: no cell is finished.
    """
    checkpoints: dict[str, dict[str, ScoredModel]] = {}
    models: dict[str, ScoredModel] = {}
    tasks: set[str] = set()
    baselines: dict[str, dict[str, float]] = {}
    for campaign in campaigns:
        done = records.results(campaign)
        for subject in records.read_grid(campaign).subjects:
            results = {task: result for (name, task), result in done.items() if name == subject.name}
            if not results:
                continue
            tasks |= results.keys()
            for task, result in results.items():
                baselines.setdefault(task, _points(task, result.baselines.get("majority", {})))
            group = models
            if subject.step is not None:
                group = checkpoints.setdefault(runs.split_spec(subject.model)[0], {})
            known = group[subject.model].results if subject.model in group else {}
            group[subject.model] = ScoredModel(subject, known | results)
    if not tasks:
        raise ConfigError(f"{campaigns[0]} has no finished cell yet, so there is nothing to plot")
    series = tuple(
        Series(name, Run(run), tuple(sorted(group.values(), key=lambda model: model.subject.step or 0)))
        for (run, group), name in zip(checkpoints.items(), _names(list(checkpoints)), strict=True)
    )
    chosen = tuple(task for name, task in TASKS.items() if name in tasks)
    return ChartData(chosen, series, tuple(models.values()), baselines)


def _points(task: str, guess: dict[str, float]) -> dict[str, float]:
    if not guess:
        return {}
    return {metric: 100 * value for metric, value in guess.items()} | {"score": 100 * task_score(task, guess)}


def _names(paths: list[str]) -> list[str]:
    """The last part of each path, or the whole paths if two end alike."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == len(short) else paths
