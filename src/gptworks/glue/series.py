"""A campaign's scores as curves over pretraining: the checkpoints of each run in order, and models beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptworks import runs
from gptworks.errors import ConfigError
from gptworks.evaluate.glue import task_score
from gptworks.glue import records
from gptworks.glue.records import Result, Subject
from gptworks.glue.tasks import TASKS, Task

AXES = {"epoch": "epochs of pretraining", "tokens": "tokens of pretraining", "step": "steps of pretraining"}
"""What checkpoints may lie on, in order of preference."""


@dataclass(frozen=True)
class Spread:
    """A measure of one cell, in points of 100."""

    kept: float
    """Of the try that is kept."""
    mean: float
    deviation: float
    """Over tries; 0 of one."""


@dataclass(frozen=True)
class Place:
    """A subject and what it reached."""

    subject: Subject
    results: dict[str, Result]
    """By task; only what is done."""

    def spread(self, task: str, metric: str) -> Spread | None:
        """A metric, or `score`, their mean; None where the cell is not done."""
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
    run: Path
    places: tuple[Place, ...]

    def at(self, axis: str) -> list[float]:
        """Where they lie on an axis."""
        return [float(getattr(place.subject, axis)) for place in self.places]


@dataclass(frozen=True)
class Material:
    """All that pictures show."""

    tasks: tuple[Task, ...]
    series: tuple[Series, ...]
    models: tuple[Place, ...]
    """Those that are no checkpoint of a run, such as GPT-2."""
    baselines: dict[str, dict[str, float]]
    """Task -> what always naming the most frequent class reaches, in points; `score` is the mean of metrics."""

    @property
    def repeated(self) -> bool:
        """Whether any cell had several tries."""
        places = [*(place for one in self.series for place in one.places), *self.models]
        return any(len(result.tries) > 1 for place in places for result in place.results.values())

    @property
    def axis(self) -> str:
        """Which axis all checkpoints have a place on."""
        subjects = [place.subject for one in self.series for place in one.places]
        return next(axis for axis in AXES if all(getattr(one, axis) is not None for one in subjects))


def read(campaigns: Sequence[Path]) -> Material:
    """What campaigns have done so far; the same run in two of them is one curve.

    Raises:
        DataError: a folder is no campaign.
        ConfigError: nothing is done yet.
    """
    places: dict[str, dict[str, Place]] = {}
    models: dict[str, Place] = {}
    tasks: set[str] = set()
    baselines: dict[str, dict[str, float]] = {}
    for campaign in campaigns:
        grid, done = records.read_grid(campaign), records.results(campaign)
        for subject in grid.subjects:
            found = {task: done[subject.name, task] for task in grid.tasks if (subject.name, task) in done}
            if not found:
                continue
            tasks |= found.keys()
            for task, result in found.items():
                baselines.setdefault(task, _points(task, result.baselines.get("majority", {})))
            beside = models
            if subject.step is not None:
                beside = places.setdefault(runs.split_spec(subject.model)[0], {})
            have = beside[subject.model].results if subject.model in beside else {}
            beside[subject.model] = Place(subject, have | found)
    if not tasks:
        raise ConfigError(f"{campaigns[0]} has no finished cell yet, so there is nothing to draw")
    series = tuple(
        Series(name, Path(run), tuple(sorted(found.values(), key=lambda place: place.subject.step or 0)))
        for (run, found), name in zip(places.items(), _names(list(places)), strict=True)
    )
    chosen = tuple(task for name, task in TASKS.items() if name in tasks)
    return Material(chosen, series, tuple(models.values()), baselines)


def _points(task: str, guess: dict[str, float]) -> dict[str, float]:
    if not guess:
        return {}
    return {metric: 100 * value for metric, value in guess.items()} | {"score": 100 * task_score(task, guess)}


def _names(paths: list[str]) -> list[str]:
    """The last part of each path, or all of it where two end alike."""
    short = [Path(path).name for path in paths]
    return short if len(set(short)) == len(short) else paths
