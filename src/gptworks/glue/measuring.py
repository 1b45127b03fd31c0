"""Measuring a cell: scores of each try on validation, the best try, and its predictions for the test rows.

A try is finished once its Run has results/glue.json. The best try has the highest score, the mean of the task's metrics
on the whole validation split, measured with its last checkpoint.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from gptworks import files
from gptworks.evaluation.glue import task_score
from gptworks.glue import records
from gptworks.glue.data import GlueSource, TrainingData
from gptworks.glue.predicting import GluePredictor
from gptworks.glue.records import CellResult, Try
from gptworks.glue.scores import Parts, baselines, intervals, measure, predictions
from gptworks.glue.tasks import GlueTask
from gptworks.messages import counted
from gptworks.model import checkpoint, classifier
from gptworks.processes import World
from gptworks.recipe import Recipe
from gptworks.runs import Run
from gptworks.train import precision
from gptworks.train.classifying import ClassifySetup
from gptworks.train.evaluators import LabelLoss
from gptworks.train.parallel import unwrap

FILE = "glue.json"


@dataclass
class GlueEvaluator:
    """Validation loss and the task's own metrics for a run's log; on the matched half for MNLI."""

    loss: LabelLoss
    task: GlueTask
    predicted: np.ndarray | None = None
    """The latest predictions of the validation rows."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` and so on, and `val_matthews_correlation` and the like."""
        scores: Tensor = self.loss.scores(model)
        self.predicted = predictions(self.task, scores.numpy())
        metrics = measure(self.task, {"matched": (self.predicted, self.loss.examples.targets)})
        return self.loss.summary(scores) | {f"val_{name}": value for name, value in metrics.items()}


def targets(task: GlueTask, data: TrainingData) -> dict[str, np.ndarray]:
    """The true class indices, or the true numbers, of each part of validation."""
    if task.regression:
        return {
            name: np.array([example.label for example in examples])
            for name, examples in data.validation.items()
        }
    return {
        name: np.array([task.labels.index(str(example.label)) for example in examples])
        for name, examples in data.validation.items()
    }


def keep_try(
    recipe: Recipe, data: TrainingData, setup: ClassifySetup, model: nn.Module, evaluator: GlueEvaluator
) -> None:
    """Measure a trained try on all of validation, and write its predictions and scores.

    The last predictions of training are reused, unless training ended in an earlier process.
    """
    task = evaluator.task
    start, run = time.monotonic(), recipe.run
    inner = unwrap(model)
    assert isinstance(inner, classifier.ClassifierModel)
    predictor = GluePredictor(inner, setup.tokenizer, task, recipe.classify, setup.plan.precision)
    true = targets(task, data)
    known = {} if evaluator.predicted is None else {task.validation[0].name: evaluator.predicted}
    parts: Parts = {
        name: (known[name] if name in known else predictor(examples), true[name])
        for name, examples in data.validation.items()
    }
    metrics = measure(task, parts)
    folder = run / "results"
    folder.mkdir(exist_ok=True)
    for name, (predicted, _) in parts.items():
        rows = [predictor.row(index, prediction) for index, prediction in enumerate(predicted.tolist())]
        files.write_text(folder / f"{name}.jsonl", "".join(rows))
    trained = [row["seconds"] for row in files.read_rows(run / "metrics.jsonl") if "seconds" in row]
    result = {
        "task": task.name,
        "seed": recipe.train.seed,
        "metrics": metrics,
        "score": task_score(task.name, metrics),
        "intervals": intervals(task, parts),
        "truncated": setup.truncated,
        "seconds": (trained or [0.0])[-1] + time.monotonic() - start,
    }
    files.write_json(folder / FILE, result)


def read_try(run: Run) -> dict[str, Any] | None:
    """The scores of a try, or None if it is not finished."""
    file = run / "results" / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def best_of(tries: Sequence[dict[str, Any]]) -> int:
    """The number of the best try, counted from 1; the first of equal ones."""
    return 1 + max(range(len(tries)), key=lambda index: (tries[index]["score"], -index))


def delete_checkpoints(cell: Path, numbers: Sequence[int]) -> None:
    """Delete the checkpoints of these tries of a cell."""
    for number in numbers:
        shutil.rmtree(records.try_run(cell, number) / "checkpoints", ignore_errors=True)


@dataclass(frozen=True)
class Cell:
    """A model on a task: where it is kept and what it was trained on."""

    folder: Path
    subject: str
    task: GlueTask
    data: TrainingData
    source: GlueSource
    keep_models: bool

    def finish(self, recipe: Recipe, n_tries: int, world: World, say: Callable[[str], None]) -> CellResult:
        """Predict the test rows with the best try, and write the result last."""
        start, folder, task = time.monotonic(), self.folder, self.task
        measured = [read_try(records.try_run(folder, number)) for number in range(1, n_tries + 1)]
        tries = [each for each in measured if each is not None]
        assert len(tries) == n_tries
        chosen = best_of(tries)
        before = records.read_result(folder)
        if before is not None and before.chosen != chosen:  # one of the additional tries is better
            for part in task.tests:
                records.predictions_file(folder, part).unlink(missing_ok=True)
        self._predict(records.try_run(folder, chosen), recipe, world, say)
        best = tries[chosen - 1]
        kept = [
            Try(number, each["seed"], each["metrics"], each["score"], each["seconds"])
            for number, each in enumerate(tries, 1)
        ]
        columns = {name: [each.metrics[name] for each in kept] for name in task.metrics}
        columns["score"] = [each.score for each in kept]
        remarks = list(self.data.examples.remarks)
        if best["truncated"]:
            remarks.append(f"{counted(best['truncated'], 'text')} truncated")
        result = CellResult(
            subject=self.subject,
            task=task.name,
            n=sum(map(len, self.data.validation.values())),
            n_train=len(self.data.examples.splits["train"]),
            tries=tuple(kept),
            chosen=chosen,
            chosen_by=_chosen_by(task, n_tries),
            mean={name: float(np.mean(values)) for name, values in columns.items()},
            standard_deviation={
                name: float(np.std(values, ddof=1)) if n_tries > 1 else None
                for name, values in columns.items()
            },
            intervals={name: span and (span[0], span[1]) for name, span in best["intervals"].items()},
            baselines=baselines(task, targets(task, self.data)),
            seconds=sum(each.seconds for each in kept) + time.monotonic() - start,
            remarks=tuple(remarks),
            epochs=recipe.train.epochs,
        )
        delete_checkpoints(folder, [n for n in range(1, n_tries + 1) if n != chosen or not self.keep_models])
        records.write_result(folder, result)
        return result

    def _predict(self, run: Run, recipe: Recipe, world: World, say: Callable[[str], None]) -> None:
        """Predict the parts of the test that have no predictions yet, with a try's last checkpoint."""
        missing = [
            part for part in self.task.tests if not records.predictions_file(self.folder, part).is_file()
        ]
        if not missing:
            return
        folder = run.checkpoint()
        compute = precision.choose(recipe.train.precision, world.device)
        tokenizer = checkpoint.load_tokenizer(folder)
        predictor = GluePredictor(classifier.load(folder), tokenizer, self.task, recipe.classify, compute)
        for part in missing:
            draft = run / "results" / f"{part.name}.jsonl"
            predictor.write(part, self.source.rows(self.task, part), draft, say)
            draft.replace(records.predictions_file(self.folder, part))


def _chosen_by(task: GlueTask, n_tries: int) -> str:
    score = task.metrics[0] if len(task.metrics) == 1 else f"mean of {' and '.join(task.metrics)}"
    if n_tries == 1:
        return f"the only try; scored by validation {score}"
    return f"best of {n_tries} tries by validation {score}: optimistic, since the same rows chose it"
