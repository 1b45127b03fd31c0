"""The life of one classifier's run: `finetune classify`, each of several seeds, and each try of a GLUE campaign."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gptworks import files
from gptworks.commands import training
from gptworks.commands.training import Say
from gptworks.messages import counted
from gptworks.recipe import Recipe
from gptworks.reports import terminal
from gptworks.runs import Run

if TYPE_CHECKING:
    from gptworks.data.examples import Examples
    from gptworks.processes import World
    from gptworks.train.classifying import ClassifySetup
    from gptworks.train.session import TrainingSchedule


def train_in(
    world: World,
    recipe: Recipe,
    loaded: Examples,
    *,
    resume: bool,
    accept_changes: bool = False,
    alone: bool = True,
) -> str | None:
    """Train a classifier in a process that has joined the others. `alone`: not one of several seeds."""
    from gptworks.host_memory import peak_memory, used_memory
    from gptworks.train import classifying, record

    say, held = training.remarks(world), used_memory(world.device)
    newest = training.checkpoint_to_resume(recipe.run, resume=resume)
    recipe = record.keep_resolved(recipe) if resume else recipe
    setup = classifying.resolve_recipe(recipe, loaded, world)
    recipe = with_columns(record.with_plan(recipe, setup.plan), loaded)
    training.check(recipe, setup.provenance, setup.model, setup.plan, world, newest)
    ignores = record.CLASSIFYING_IGNORES
    changes = training.changes(recipe, setup.provenance, say, ignores, resume=resume, accept=accept_changes)
    schedule = schedule_of(setup)
    trainer = training.build_trainer(recipe, setup.model, setup.task, setup.plan, world, say)
    with training.opened(recipe, trainer, newest, say, resume=resume, adapted=setup.adapted) as point:
        done = newest.step if newest and point else 0
        _announce(setup, say)
        training.remark(recipe, setup.plan, done, say)
        if world.main:
            record.write(recipe, setup.provenance, world, ignores, max_steps=setup.plan.max_steps)
            record.keep_changes(recipe.run, done, changes)
        training.estimate_memory(setup.memory, held, say)
        stopped = training.run_session(recipe, trainer, schedule, point, done)
        trained = done < setup.plan.max_steps
        if world.main:
            seen = (held, peak_memory(world.device)) if trained else None
            training.record_memory(recipe.run, setup.memory, seen, say)
        with training.whole_model(trainer) as main:
            if main:
                _show_results(recipe.run, setup, trainer.step, stopped, alone=alone)
                training.write_report(recipe.run, stopped, say)
    return stopped


def with_columns(recipe: Recipe, loaded: Examples) -> Recipe:
    """The recipe with the columns that were guessed: `classify` reads what training read."""
    return replace(recipe, classify=replace(recipe.classify, **loaded.columns._asdict()))


def schedule_of(setup: ClassifySetup) -> TrainingSchedule:
    """What a classifier's run does between steps. No MFU: it depends on which layers are trained."""
    from gptworks.train.session import TrainingSchedule

    return TrainingSchedule(
        tokenizer=setup.tokenizer,
        steps_per_epoch=setup.task.steps_per_epoch,
        evaluate=setup.evaluate,
        adapted=setup.adapted,
        ragged=True,
    )


def _announce(setup: ClassifySetup, say: Say) -> None:
    loaded = setup.examples
    columns = [name for name in (loaded.columns.text, loaded.columns.text_pair) if name]
    say(
        f"{loaded.path}: text in {' and '.join(columns)}, label in {loaded.columns.label}; "
        + ", ".join(f"{len(examples):,} for {split}" for split, examples in loaded.splits.items())
    )
    scale = setup.task.examples.target_scale
    scaled = "" if scale == 1 else f", divided by {scale:,g} during training"
    say(
        f"classes: {_class_counts(loaded)}"
        if loaded.labels
        else f"labels are numbers: one output, squared error{scaled}"
    )
    for remark in loaded.remarks:
        say(remark)
    if setup.truncated:
        say(f"{counted(setup.truncated, 'text')} longer than the model's input: truncated")
    say(
        f"{training.trainable(setup.model)}; {counted(setup.plan.max_steps, 'step')} of "
        f"{counted(setup.task.batch_examples, 'text')}"
    )


def _class_counts(loaded: Examples) -> str:
    """Every class with its number of examples: a label mistyped once is a class of its own."""
    counts = Counter(str(example.label) for examples in loaded.splits.values() for example in examples)
    return ", ".join(f"{label} ({counts[label]:,})" for label in loaded.labels)


def _show_results(run: Run, setup: ClassifySetup, step: int, stopped: str | None, *, alone: bool) -> None:
    from gptworks.reports import plots

    plots.loss_curve(run, unit="nats per text" if setup.examples.labels else "squared error per text")
    if stopped is None:
        for line in _score(run, setup):
            terminal.show(line)
    terminal.show(f"{run}: {step:,} of {counted(setup.plan.max_steps, 'step')}")
    if stopped:
        terminal.say(training.stopped_by(stopped))
    elif alone:
        terminal.say(f"next: gptworks classify {run} --text '...'")


def _score(run: Run, setup: ClassifySetup) -> list[str]:
    """Score the held-out splits, save the scores in results/ and plots/, and describe them.

    Scores the last checkpoint, which the model still holds, and the best one on validation if that is another.
    """
    from gptworks.evaluation import report
    from gptworks.model import folders
    from gptworks.reports import plots

    checkpoints = {"last": run.checkpoint()}
    if setup.evaluate is not None and (best := run.checkpoint("best")) != checkpoints["last"]:
        checkpoints["best on validation"] = best
    measured = [split for split in ("test", "val") if setup.encoded[split].rows]
    scores: dict[str, dict[str, Any]] = {split: {} for split in measured}
    for name, folder in checkpoints.items():
        if name != "last":
            folders.load_into(setup.model, folder)
        for split in measured:
            found = report.score(setup.model.eval(), setup.encoded, setup.examples, split)
            scores[split][name] = {"checkpoint": folder.name} | found
    (run / "results").mkdir(exist_ok=True)
    data = setup.provenance
    for split in measured:  # validation's comes last: it marks a try as finished
        result = {"split": split, "kind": "classes" if setup.examples.labels else "number"}
        result |= {"labels": list(setup.examples.labels), "data": str(data.path)}
        result |= {"data_fingerprint": data.fingerprint, "tokenizer_fingerprint": data.tokenizer_fingerprint}
        result |= {"remarks": list(setup.examples.remarks), "truncated": setup.truncated}
        plots.classification(run, f"classify-{split}", result | {"scores": scores[split]})
        files.write_json(run / "results" / f"classify-{split}.json", result | {"scores": scores[split]})
    return [
        f"{SPLIT_NAMES[split]}, {name}: {report.line(one)}"
        for split in measured[:1]
        for name, one in scores[split].items()
    ]


SPLIT_NAMES = {"test": "test", "val": "validation"}
