"""`gptworks finetune classify`: a MODEL and labelled texts in, a Run out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gptworks.commands.start import Job, Out, RecipeFile, Resume, finish, needed, start
from gptworks.errors import ConfigError
from gptworks.recipe import (
    ClassifyOptions,
    EvalOptions,
    LogOptions,
    LoraOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)

if TYPE_CHECKING:
    from gptworks.train.classifying import Classifying
    from gptworks.train.session import Duties
    from gptworks.train.trainer import Trainer
    from gptworks.world import World


def classify(
    recipe: RecipeFile = None,  # noqa: ARG001 - read by cli
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="MODEL to start from: a run, a model folder or a Hub id.")
    ] = None,
    data: Annotated[
        Path | None, Parameter(help="CSV, TSV, JSON, JSONL or Parquet, a zip of one, or a folder of splits.")
    ] = None,
    out: Out = None,
    resume: Resume = False,
    classify: Annotated[ClassifyOptions, Parameter(name="*")] = ClassifyOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
    eval: EvalOptions = EvalOptions(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Teach a GPT to name a text's class, or to predict a number, from examples.

    Unless given, optim.lr is 5e-5, and 5e-4 with --lora.rank; it falls linearly to 0. Validation comes every 50 steps.
    """
    needed("finetune classify", model_MODEL=model, data_FILE=data, out_RUN=out)
    if eval.tasks:
        raise ConfigError("eval.tasks measures language models, and this is a classifier: leave it out")
    whole = Recipe(
        data=data,
        out=out,
        base=model,
        classify=classify,
        lora=lora,
        train=train,
        optim=optim,
        eval=eval,
        save=save,
        log=log,
    )
    finish(start(whole, _settle, resume=resume))


def _settle(recipe: Recipe, world: World, resumed: Path | None) -> Job:  # noqa: ARG001 - always from its base
    from gptworks.data import examples
    from gptworks.train import classifying, record

    assert recipe.data is not None
    work = classifying.settle(recipe, examples.load(recipe.data, recipe.classify), world)
    recipe = classifying.resolved(recipe, work)
    return Job(
        recipe=recipe,
        model=work.model,
        task=work.task,
        plan=work.plan,
        material=work,
        duties=_duties(recipe, work),
        ignores=record.FINETUNING_IGNORES,
        announce=lambda say: _announce(work, say),
        farewell=lambda trainer, reason: _farewell(recipe, work, trainer, reason),
    )


def _announce(work: Classifying, say: Callable[[str], None]) -> None:
    found = work.examples
    columns = [name for name in (found.columns.text, found.columns.pair) if name]
    say(
        f"{found.path}: text in {' and '.join(columns)}, label in {found.columns.label}; "
        + ", ".join(f"{len(examples):,} to {split}" for split, examples in found.splits.items())
    )
    say(
        f"classes: {', '.join(found.labels)}"
        if found.labels
        else "labels are numbers: one output, squared error"
    )
    for remark in found.remarks:
        say(remark)
    if work.truncated:
        say(f"{work.truncated:,} texts are longer than the model reads and were cut at their end")
    every = sum(param.numel() for param in work.model.parameters())
    trained = sum(param.numel() for param in work.model.parameters() if param.requires_grad)
    say(
        f"{trained:,} of {every:,} parameters are trained; {work.plan.max_steps:,} steps of {work.task.size} texts"
    )


def _duties(recipe: Recipe, work: Classifying) -> Duties:
    from gptworks.train.session import Duties

    hours = recipe.train.max_hours
    return Duties(
        tokenizer=work.tokenizer,
        evaluate=work.evaluate,
        sample=None,
        steps_per_epoch=work.task.steps_per_epoch,
        flops_per_token=0.0,  # what is trained and how far gradients go differs: no MFU is claimed
        peak_flops=1.0,
        eval=recipe.eval,
        save=recipe.save,
        sampling=recipe.sample,
        log=recipe.log,
        max_seconds=None if hours is None else hours * 3600,
        adapted=work.adapted,
    )


def _farewell(recipe: Recipe, work: Classifying, trainer: Trainer, reason: str | None) -> None:
    from gptworks.report import plots, terminal

    run = recipe.out
    assert run is not None
    plots.loss_curve(run, unit="text")
    if reason is None and work.encoded["test"].rows:
        print(_describe(_score(run, work)))
    print(f"{run}: {trainer.step:,} of {work.plan.max_steps:,} steps")
    if reason:
        terminal.say(f"stopped by {reason} with a checkpoint; the same command with --resume goes on")
    else:
        terminal.say(f"next: gptworks classify {run} --text '...'")


def _score(run: Path, work: Classifying) -> dict[str, object]:
    """Scores on the test split: of the last checkpoint, and of the best on validation where that is another."""
    from gptworks import runs
    from gptworks.evaluate import report
    from gptworks.model import classifier

    checkpoints = {"last": runs.find_checkpoint(run)}
    if work.evaluate is not None and (best := runs.find_checkpoint(run, "best")) != checkpoints["last"]:
        checkpoints["best on validation"] = best
    scores = {
        name: {"checkpoint": folder.name} | report.score(classifier.load(folder), work.encoded, work.examples)
        for name, folder in checkpoints.items()
    }
    result = {
        "split": "test",
        "data": str(work.path),
        "data_fingerprint": work.fingerprint,
        "tokenizer_fingerprint": work.tokenizer_fingerprint,
        "remarks": list(work.examples.remarks),
        "truncated": work.truncated,
        "scores": scores,
    }
    (run / "results").mkdir(exist_ok=True)
    runs.write_json(run / "results" / "classify-test.json", result)
    return result


def _describe(result: dict[str, object]) -> str:
    """The last checkpoint's scores in a line or two."""
    from gptworks.evaluate import report

    scores = result["scores"]
    assert isinstance(scores, dict)
    return "\n".join(f"test, {name}: {report.line(one)}" for name, one in scores.items())
