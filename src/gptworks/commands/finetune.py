"""`gptworks finetune classify`: a MODEL and labelled texts in, a Run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.commands.given import needed
from gptworks.commands.start import (
    AcceptChanges,
    Job,
    Out,
    RecipeFile,
    Resume,
    finish,
    start,
    stopped,
)
from gptworks.commands.tries import run_tries
from gptworks.errors import ConfigError
from gptworks.recipe import (
    ClassifyOptions,
    FinetuneEval,
    FinetuneOptim,
    LogOptions,
    LoraOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.data.examples import Examples
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
        Path | None,
        Parameter(
            help="CSV, TSV, JSON, JSONL or Parquet, a zip of one, a folder of splits, or "
            "hf:OWNER/NAME[:CONFIG][@REVISION]."
        ),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    classify: Annotated[ClassifyOptions, Parameter(name="*")] = ClassifyOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: FinetuneOptim = FinetuneOptim(),  # noqa: B008
    eval: FinetuneEval = FinetuneEval(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Teach a GPT to name a text's class, or to predict a number, from examples."""
    from gptworks.world import keep_few_products

    needed("finetune classify", resume=resume, model_MODEL=model, data_FILE=data, out_RUN=out)
    keep_few_products(16)
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
    if classify.tries == 1:
        finish(start(whole, settle, resume=resume, accept_changes=accept_changes))
    else:
        from gptworks.data import examples

        assert data is not None
        found = examples.load(data, classify)
        if accept_changes:
            raise ConfigError("--accept-changes goes with one try: tries that differ cannot be compared")
        whole = _with_columns(whole, found)
        finish(run_tries(whole, found, partial(settle, one_of_several=found), resume=resume))


def settle(
    recipe: Recipe,
    world: World,
    resumed: Path | None,  # noqa: ARG001 - always from its base
    one_of_several: Examples | None = None,
) -> Job:
    """What a recipe comes to; of several with the same examples these are given."""
    from gptworks.data import examples
    from gptworks.train import classifying, finetuning, record

    assert recipe.data is not None
    work = classifying.settle(recipe, one_of_several or examples.load(recipe.data, recipe.classify), world)
    recipe = _with_columns(finetuning.resolved(recipe, work.plan), work.examples)
    return Job(
        recipe=recipe,
        model=work.model,
        task=work.task,
        plan=work.plan,
        material=work,
        duties=_duties(recipe, work),
        ignores=record.FINETUNING_IGNORES,
        announce=lambda say: _announce(work, say),
        farewell=lambda trainer, reason: _farewell(
            recipe, work, trainer, reason, alone=one_of_several is None
        ),
        memory=work.memory,
    )


def _with_columns(recipe: Recipe, found: Examples) -> Recipe:
    """The recipe with the columns that were guessed: `classify` reads what training read."""
    return replace(recipe, classify=replace(recipe.classify, **found.columns._asdict()))


def _announce(work: Classifying, say: Callable[[str], None]) -> None:
    found = work.examples
    columns = [name for name in (found.columns.text, found.columns.pair) if name]
    say(
        f"{found.path}: text in {' and '.join(columns)}, label in {found.columns.label}; "
        + ", ".join(f"{len(examples):,} to {split}" for split, examples in found.splits.items())
    )
    unit = work.task.examples.unit
    counted_in = "" if unit == 1 else f", counted in units of {unit:,g} while training"
    say(
        f"classes: {_counted(found)}"
        if found.labels
        else f"labels are numbers: one output, squared error{counted_in}"
    )
    for remark in found.remarks:
        say(remark)
    if work.truncated:
        say(f"{counted(work.truncated, 'text')} longer than the model reads: cut at the end")
    every = sum(param.numel() for param in work.model.parameters())
    trained = sum(param.numel() for param in work.model.parameters() if param.requires_grad)
    say(
        f"{trained:,} of {every:,} parameters are trained; {counted(work.plan.max_steps, 'step')} of "
        f"{counted(work.task.size, 'text')}"
    )


def _counted(found: Examples) -> str:
    """Every class with its examples: a label mistyped once is a class of its own."""
    counts = Counter(str(example.label) for examples in found.splits.values() for example in examples)
    return ", ".join(f"{label} ({counts[label]:,})" for label in found.labels)


def _duties(recipe: Recipe, work: Classifying) -> Duties:
    from gptworks.train.session import Duties

    hours = recipe.train.max_hours
    return Duties(
        tokenizer=work.tokenizer,
        evaluate=work.evaluate,
        sample=None,
        steps_per_epoch=work.task.steps_per_epoch,
        flops_per_token=0.0,  # what is trained and how far gradients go differs: no MFU is claimed
        peak_flops=None,
        eval=recipe.eval,
        save=recipe.save,
        sampling=recipe.sample,
        log=recipe.log,
        max_seconds=None if hours is None else hours * 3600,
        adapted=work.adapted,
        ragged=True,
    )


def _farewell(
    recipe: Recipe, work: Classifying, trainer: Trainer, reason: str | None, *, alone: bool
) -> None:
    from gptworks.report import plots, terminal

    run = recipe.out
    assert run is not None
    plots.loss_curve(run, unit="nats per text" if work.examples.labels else "squared error per text")
    if reason is None:
        for line in _score(run, work):
            print(line)
    print(f"{run}: {trainer.step:,} of {counted(work.plan.max_steps, 'step')}")
    if reason:
        terminal.say(stopped(reason))
    elif alone:
        terminal.say(f"next: gptworks classify {run} --text '...'")


def _score(run: Path, work: Classifying) -> list[str]:
    """Measure the held-out splits, keep what came out in results/ and plots/, and say it in lines.

    Of the last checkpoint, which the model still is, and of the best on validation where that is another.
    """
    from gptworks import runs
    from gptworks.evaluate import report
    from gptworks.model import folders
    from gptworks.report import plots

    checkpoints = {"last": runs.find_checkpoint(run)}
    if work.evaluate is not None and (best := runs.find_checkpoint(run, "best")) != checkpoints["last"]:
        checkpoints["best on validation"] = best
    measured = [split for split in ("test", "val") if work.encoded[split].rows]
    scores: dict[str, dict[str, Any]] = {split: {} for split in measured}
    for name, folder in checkpoints.items():
        if name != "last":
            folders.read_into(work.model, folder)
        for split in measured:
            found = report.score(work.model.eval(), work.encoded, work.examples, split)
            scores[split][name] = {"checkpoint": folder.name} | found
    (run / "results").mkdir(exist_ok=True)
    for split in measured:  # validation's last: with it a try is through
        result = {"split": split, "kind": "classes" if work.examples.labels else "number"}
        result |= {"labels": list(work.examples.labels), "data": str(work.path)}
        result |= {"data_fingerprint": work.fingerprint, "tokenizer_fingerprint": work.tokenizer_fingerprint}
        result |= {"remarks": list(work.examples.remarks), "truncated": work.truncated}
        plots.classification(run, f"classify-{split}", result | {"scores": scores[split]})
        runs.write_json(run / "results" / f"classify-{split}.json", result | {"scores": scores[split]})
    return [
        f"{SAID[split]}, {name}: {report.line(one)}"
        for split in measured[:1]
        for name, one in scores[split].items()
    ]


SAID = {"test": "test", "val": "validation"}
