"""`gptworks finetune classify`: a MODEL and labelled texts in, a Run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks.commands import classifier, training
from gptworks.commands.cli_checks import check_given
from gptworks.commands.training import AcceptChanges, Out, RecipeFile, Resume
from gptworks.errors import ConfigError
from gptworks.recipe import (
    ClassifyOptions,
    DeviceOption,
    EvalOptions,
    LogOptions,
    LoraOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)


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
    device: DeviceOption = "auto",
    classify: Annotated[ClassifyOptions, Parameter(name="*")] = ClassifyOptions(),  # noqa: B008 - frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    eval: EvalOptions = EvalOptions(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Fine-tune a GPT to classify text, or to predict a number, from examples."""
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
    training.exit_if_stopped(
        train_classifier(whole, resume=resume, accept_changes=accept_changes, device=device)
    )


def train_classifier(
    recipe: Recipe, *, resume: bool = False, accept_changes: bool = False, device: str = "auto"
) -> str | None:
    """Train the classifier of a recipe, or resume it; returns what stopped it early, or None."""
    from gptworks.data import examples
    from gptworks.devices import set_onednn_cache

    check_given("finetune classify", recipe, resume=resume)
    set_onednn_cache(16)
    if recipe.eval.tasks:
        raise ConfigError("eval.tasks scores language models, and this is a classifier: leave it out")
    assert recipe.data is not None
    if recipe.classify.n_seeds > 1:
        from gptworks.commands.tries import run_tries

        if accept_changes:
            raise ConfigError("--accept-changes needs --n-seeds 1: tries that differ cannot be compared")
        loaded = examples.load(recipe.data, recipe.classify)
        return run_tries(classifier.with_columns(recipe, loaded), loaded, resume=resume, device=device)
    with training.joined(recipe, device) as world:
        loaded = examples.load(recipe.data, recipe.classify)
        return classifier.train_in(world, recipe, loaded, resume=resume, accept_changes=accept_changes)
