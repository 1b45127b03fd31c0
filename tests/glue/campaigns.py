"""Campaigns as `gptworks glue` leaves them, with made-up scores and predictions: no models."""

import json
import math
from pathlib import Path

from gptworks.evaluation.glue import task_score
from gptworks.glue import records
from gptworks.glue.records import CellResult, GlueModel, Grid, Try
from gptworks.glue.tasks import TASKS

SMALL = ("cola", "mrpc", "stsb", "rte", "wnli")
"""Tasks with few test rows."""


def checkpoint(epoch: float, run: str = "runs/small") -> GlueModel:
    step = round(1000 * epoch)
    name = f"{Path(run).name}-step-{step:06d}"
    return GlueModel(name, f"{run}@step-{step}", step, epoch, 65_536 * step, "0" * 64)


def make(folder: Path, subjects, tasks=SMALL, *, tries=3, predict=True, score=None):
    """A finished campaign. `score(subject, task, metric, try)` -> 0 to 1."""
    records.write_grid(folder, Grid(tuple(subjects), tuple(tasks), dict.fromkeys(tasks, tries)))
    for number, subject in enumerate(subjects):
        for task in tasks:
            fill(folder, subject, task, tries, score or (lambda s, *_, n=number: 0.5 + 0.05 * n), predict)
    return folder


def fill(folder, subject, task, tries, score, predict):
    """One finished cell."""
    facts, cell = TASKS[task], records.cell(folder, subject.name, task)
    cell.mkdir(parents=True)
    done = []
    for number in range(1, tries + 1):
        metrics = {metric: score(subject, task, metric, number) for metric in facts.metrics}
        done.append(Try(number, number, metrics, task_score(task, metrics), 10.0))
    best = max(done, key=lambda one: one.score)
    columns = {m: [one.metrics[m] for one in done] for m in facts.metrics} | {
        "score": [one.score for one in done]
    }
    mean = {name: sum(values) / tries for name, values in columns.items()}
    deviation = {
        name: math.sqrt(sum((v - mean[name]) ** 2 for v in values) / (tries - 1)) if tries > 1 else None
        for name, values in columns.items()
    }
    guesses = {"majority": {m: 0.0 if "corr" in m or facts.regression else 0.55 for m in facts.metrics}}
    guesses["weighted"] = {m: 0.0 if "corr" in m or facts.regression else 0.5 for m in facts.metrics}
    n = sum(part.rows for part in facts.validation)
    spans = {m: (max(-1.0, v - 0.03), min(1.0, v + 0.03)) for m, v in best.metrics.items()}
    result = CellResult(
        subject.name, task, n, facts.train.rows, tuple(done), best.number, "the mean of the metrics", mean, deviation,
        spans, guesses, 10.0 * tries,
    )  # fmt: skip
    for part in facts.tests if predict else ():
        with records.predictions_file(cell, part).open("w") as file:
            for index in range(part.rows):
                said = answer(task, index)
                file.write(
                    json.dumps({"index": index, "value" if facts.regression else "label": said}) + "\n"
                )
    records.write_result(cell, result)


def answer(task: str, index: int) -> str | float:
    """What the campaign says of a test row."""
    labels = TASKS[task].labels
    return labels[(index * 7 + index // 5) % len(labels)] if labels else (index * 37 % 5001) / 1000
