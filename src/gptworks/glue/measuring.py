"""What is kept of a cell: of a try its scores on validation, of all tries which one is best, of that one predictions.

A try is through once results/glue.json stands in its Run. Tries are chosen by one score, the mean of the task's metrics
on the whole validation split, taken with the last checkpoint.
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

from gptworks import runs
from gptworks.evaluate.glue import task_score
from gptworks.glue import records
from gptworks.glue.data import Lessons, Source
from gptworks.glue.predicting import Predictor
from gptworks.glue.records import Result, Try
from gptworks.glue.scores import Halves, answers, baselines, intervals, measure
from gptworks.glue.tasks import Task
from gptworks.model import checkpoint, classifier
from gptworks.recipe import Recipe
from gptworks.train import precision
from gptworks.train.classifying import Classifying
from gptworks.train.evaluators import LabelLoss
from gptworks.train.parallel import unwrap
from gptworks.wording import counted
from gptworks.world import World

FILE = "glue.json"


@dataclass
class TaskScores:
    """Validation's loss, and the task's own metrics, as rows of a run's log; of MNLI the matched half's."""

    loss: LabelLoss
    task: Task
    said: np.ndarray | None = None
    """What was said of each row last."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` and so on, and `val_matthews_correlation` and such."""
        scores: Tensor = self.loss.scores(model)
        self.said = answers(self.task, scores.numpy())
        found = measure(self.task, {"matched": (self.said, self.loss.examples.targets)})
        return self.loss.summary(scores) | {f"val_{name}": value for name, value in found.items()}


def truth(task: Task, lessons: Lessons) -> dict[str, np.ndarray]:
    """Of every part of validation, the numbers of the true classes, or the true numbers."""
    if task.regression:
        return {name: np.array([one.label for one in half]) for name, half in lessons.halves.items()}
    return {
        name: np.array([task.labels.index(str(one.label)) for one in half])
        for name, half in lessons.halves.items()
    }


def keep_try(recipe: Recipe, lessons: Lessons, work: Classifying, model: nn.Module, look: TaskScores) -> None:
    """Measure a try that is trained, on all of validation, and write what came out.

    What the training's last look saw is not measured again, unless the training ended in an earlier process.
    """
    task = look.task
    begun, run = time.monotonic(), recipe.out
    assert run is not None
    inner = unwrap(model)
    assert isinstance(inner, classifier.Classifier)
    predictor = Predictor(inner, work.tokenizer, task, recipe.classify, work.plan.precision)
    true = truth(task, lessons)
    seen = {} if look.said is None else {task.validation[0].name: look.said}
    halves: Halves = {
        name: (seen[name] if name in seen else predictor(half), true[name])
        for name, half in lessons.halves.items()
    }
    metrics = measure(task, halves)
    folder = run / "results"
    folder.mkdir(exist_ok=True)
    for name, (said, _) in halves.items():
        rows = [predictor.row(index, answer) for index, answer in enumerate(said.tolist())]
        runs.write_text(folder / f"{name}.jsonl", "".join(rows))
    trained = [row["seconds"] for row in runs.read_rows(run / "metrics.jsonl") if "seconds" in row]
    found = {
        "task": task.name,
        "seed": recipe.train.seed,
        "metrics": metrics,
        "score": task_score(task.name, metrics),
        "intervals": intervals(task, halves),
        "truncated": work.truncated,
        "seconds": (trained or [0.0])[-1] + time.monotonic() - begun,
    }
    runs.write_json(folder / FILE, found)


def read_try(run: Path) -> dict[str, Any] | None:
    """What a try that is through came to."""
    file = run / "results" / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def best_of(tries: Sequence[dict[str, Any]]) -> int:
    """Number of the best try, from 1; the first of equals."""
    return 1 + max(range(len(tries)), key=lambda index: (tries[index]["score"], -index))


def throw_away(cell: Path, numbers: Sequence[int]) -> None:
    """Remove the checkpoints of tries."""
    for number in numbers:
        shutil.rmtree(records.try_run(cell, number) / "checkpoints", ignore_errors=True)


@dataclass(frozen=True)
class Finish:
    """Makes a result of a cell whose tries are through."""

    cell: Path
    subject: str
    task: Task
    lessons: Lessons
    source: Source
    keep_models: bool

    def __call__(self, recipe: Recipe, n_tries: int, world: World, say: Callable[[str], None]) -> Result:
        """Let the best try predict the test rows, and write the result last."""
        begun, cell, task = time.monotonic(), self.cell, self.task
        found = [read_try(records.try_run(cell, number)) for number in range(1, n_tries + 1)]
        tries = [one for one in found if one is not None]
        assert len(tries) == n_tries
        chosen = best_of(tries)
        before = records.read_result(cell)
        if (
            before is not None and before.chosen != chosen
        ):  # more tries have been asked for, and one is better
            for part in task.tests:
                records.predictions_file(cell, part).unlink(missing_ok=True)
        self._predict(records.try_run(cell, chosen), recipe, world, say)
        best = tries[chosen - 1]
        kept = [
            Try(n, one["seed"], one["metrics"], one["score"], one["seconds"])
            for n, one in enumerate(tries, 1)
        ]
        columns = {name: [one.metrics[name] for one in kept] for name in task.metrics}
        columns["score"] = [one.score for one in kept]
        remarks = list(self.lessons.examples.remarks)
        if best["truncated"]:
            remarks.append(
                f"{counted(best['truncated'], 'text')} longer than the model reads: cut at the end"
            )
        result = Result(
            subject=self.subject,
            task=task.name,
            n=sum(map(len, self.lessons.halves.values())),
            n_train=len(self.lessons.examples.splits["train"]),
            tries=tuple(kept),
            chosen=chosen,
            chosen_by=_chosen_by(task, n_tries),
            mean={name: float(np.mean(values)) for name, values in columns.items()},
            standard_deviation={
                name: float(np.std(values, ddof=1)) if n_tries > 1 else None
                for name, values in columns.items()
            },
            intervals={name: span and (span[0], span[1]) for name, span in best["intervals"].items()},
            baselines=baselines(task, truth(task, self.lessons)),
            seconds=sum(one.seconds for one in kept) + time.monotonic() - begun,
            remarks=tuple(remarks),
            epochs=recipe.train.epochs,
        )
        throw_away(cell, [n for n in range(1, n_tries + 1) if n != chosen or not self.keep_models])
        records.write_result(cell, result)
        return result

    def _predict(self, run: Path, recipe: Recipe, world: World, say: Callable[[str], None]) -> None:
        """Every part of the test that is not there yet, by a try's last checkpoint."""
        missing = [
            part for part in self.task.tests if not records.predictions_file(self.cell, part).is_file()
        ]
        if not missing:
            return
        folder = runs.find_checkpoint(run)
        numbers = precision.choose(recipe.train.precision, world.device)
        tokenizer = checkpoint.load_tokenizer(folder)
        predictor = Predictor(classifier.load(folder), tokenizer, self.task, recipe.classify, numbers)
        for part in missing:
            draft = run / "results" / f"{part.name}.jsonl"
            predictor.write(part, self.source.rows(self.task, part), draft, say)
            draft.replace(records.predictions_file(self.cell, part))


def _chosen_by(task: Task, n_tries: int) -> str:
    score = task.metrics[0] if len(task.metrics) == 1 else f"mean of {' and '.join(task.metrics)}"
    if n_tries == 1:
        return f"the only try; scored by validation {score}"
    return (
        f"best of {n_tries} tries by validation {score}: chosen on the rows it is scored on, so it flatters"
    )
