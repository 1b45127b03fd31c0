"""`gptworks pretrain`: a Dataset in, a Run out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.commands import training
from gptworks.commands.cli_checks import check_given
from gptworks.commands.training import RESUME, AcceptChanges, Out, RecipeFile, Resume, Say
from gptworks.errors import ConfigError
from gptworks.messages import counted
from gptworks.recipe import (
    DeviceOption,
    EvalOptions,
    LogOptions,
    ModelOptions,
    OptimOptions,
    Recipe,
    SampleOptions,
    SaveOptions,
    TrainOptions,
)
from gptworks.reports import terminal
from gptworks.runs import Run

if TYPE_CHECKING:
    from torch import nn

    from gptworks.data.dataset import Dataset
    from gptworks.processes import World
    from gptworks.train.pretraining import PretrainSetup
    from gptworks.train.session import TrainingSchedule

OPENING_TOKENS = 8
"""Length of the prompt for samples of a Dataset with few documents."""


def pretrain(
    recipe: RecipeFile = None,  # noqa: ARG001 - read by cli
    /,
    *,
    data: Annotated[Path | None, Parameter(help="Dataset folder, from `gptworks prepare`.")] = None,
    out: Out = None,
    base: Annotated[str | None, Parameter(help="MODEL to start from instead of random weights.")] = None,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    device: DeviceOption = "auto",
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
    eval: EvalOptions = EvalOptions(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    sample: SampleOptions = SampleOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Train a GPT on a Dataset.

    Stop it at any moment, even by pulling the plug: the same command with --resume continues exactly.
    """
    whole = Recipe(
        data=data,
        out=out,
        base=base,
        model=model,
        train=train,
        optim=optim,
        eval=eval,
        save=save,
        sample=sample,
        log=log,
    )
    training.exit_if_stopped(train_run(whole, resume=resume, accept_changes=accept_changes, device=device))


def train_run(
    recipe: Recipe,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    device: str = "auto",
    again: str = RESUME,
) -> str | None:
    """Train the run of a recipe, or resume it; returns what stopped it early, or None.

    `again` tells the user how to continue a stopped run.
    """
    check_given("pretrain", recipe, resume=resume)
    if recipe.train.dropout is not None:
        raise ConfigError("train.dropout is for fine-tuning; for pretraining, set model.dropout")
    with training.joined(recipe, device) as world:
        from gptworks.data.dataset import Dataset
        from gptworks.train import pretraining, record

        say = training.remarks(world)
        newest = training.checkpoint_to_resume(recipe.run, resume=resume)
        assert recipe.data is not None
        dataset = Dataset.open(recipe.data)
        asked = recipe.train.micro_batch
        recipe = record.keep_resolved(recipe) if resume else recipe
        setup = pretraining.resolve_recipe(recipe, dataset, world, resumed=newest.path if newest else None)
        recipe = record.resolved(recipe, setup.config, setup.plan)
        data = record.Provenance.of(dataset)
        training.check(recipe, data, setup.model, setup.plan, world, newest)
        changes = training.changes(
            recipe, data, say, record.PRETRAINING_IGNORES, resume=resume, accept=accept_changes
        )
        schedule = _schedule(recipe, setup, dataset, world)
        trainer = training.build_trainer(recipe, setup.model, setup.task, setup.plan, world, say)
        with training.opened(recipe, trainer, newest, say, resume=resume) as point:
            done = newest.step if newest and point else 0
            _announce(setup, dataset, world, say)
            training.remark(recipe, setup.plan, done, say)
            recipe = training.tune_micro_batch(
                recipe, trainer, schedule, say, asked="kept" if point else asked
            )
            if world.main:
                ignores, steps = record.PRETRAINING_IGNORES, setup.plan.max_steps
                record.write(recipe, data, world, ignores, max_steps=steps, peak=schedule.peak_flops)
                record.keep_changes(recipe.run, done, changes)
            stopped = training.run_session(recipe, trainer, schedule, point, done)
            with training.whole_model(trainer) as main:
                if main:
                    _show_results(recipe.run, trainer.step, trainer.plan.max_steps, stopped, again)
                    training.write_report(recipe.run, stopped, say)
    return stopped


def _schedule(recipe: Recipe, setup: PretrainSetup, dataset: Dataset, world: World) -> TrainingSchedule:
    from gptworks.commands.evaluate import training_evaluator
    from gptworks.model import sizing
    from gptworks.train import record
    from gptworks.train.peak import peak_flops
    from gptworks.train.session import TrainingSchedule

    precision = setup.plan.precision
    recorded = record.peak(recipe.run, precision.name, world)
    return TrainingSchedule(
        tokenizer=setup.tokenizer,
        steps_per_epoch=setup.steps_per_epoch,
        evaluate=setup.evaluate,
        score=training_evaluator(recipe.eval, setup.config.context, setup.tokenizer, world),
        sample=_sampler(recipe, setup, dataset) if recipe.sample.every else None,
        flops_per_token=sizing.flops_per_token(setup.config),
        peak_flops=recorded or peak_flops(precision) * world.size,
        ragged=recipe.train.windows == "documents",
    )


def _announce(setup: PretrainSetup, dataset: Dataset, world: World, say: Say) -> None:
    from gptworks.devices import describe
    from gptworks.model import sizing

    config, plan = setup.config, setup.plan
    say(f"{config.family} model: {sizing.parameters(config):,} parameters ({config.shape})")
    train = dataset.split("train")
    assert train is not None
    say(
        f"{dataset.path}: {train.n_tokens:,} tokens; {counted(plan.max_steps, 'step')} of {setup.batch_tokens:,} = "
        f"{plan.max_steps / setup.steps_per_epoch:.2f} epochs"
    )
    rows = len(setup.task.order.rows(0))
    where = f" on each of {world.size} processes" if world.size > 1 else ""
    say(
        f"{describe(world.device)}, {plan.precision}; {counted(rows, 'row')} per step, "
        f"{plan.micro_batch} per micro-batch{where}"
    )


def _sampler(
    recipe: Recipe, setup: PretrainSetup, dataset: Dataset
) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """Generates with the engine and settings of `gptworks generate`, without touching the training stream."""
    from gptworks.generation.engine import GenerateSettings, encode_prompt, fit_prompt, generate
    from gptworks.train.parallel import unwrap

    options = recipe.sample
    settings = GenerateSettings(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=recipe.train.seed,
    )
    opening = _opening(dataset, setup) if "" in options.prompts else ""
    prompts = [prompt or opening for prompt in options.prompts]
    for prompt in prompts:  # a bad prompt is reported now, not hours later
        fit_prompt(setup.model, encode_prompt(setup.model, setup.tokenizer, prompt), settings)

    def sample(model: nn.Module) -> list[dict[str, Any]]:
        return [
            {"prompt": prompt, "seed": settings.seed, "text": made.text}
            for prompt in prompts
            for made in generate(unwrap(model), setup.tokenizer, prompt, settings)
        ]

    return sample


def _opening(dataset: Dataset, setup: PretrainSetup) -> str:
    """The text that an empty prompt stands for: none or, with few documents, the first words of held-out text.

    A model trained on one long text has never seen what follows a separator, and would write garbage there.
    """
    from gptworks.data.dataset import FEW_DOCUMENTS

    train = dataset.split("train")
    assert train is not None
    if train.n_documents >= FEW_DOCUMENTS:
        return ""
    tokens = (dataset.split("val") or train).shards[0].tokens
    ids = tokens[: min(OPENING_TOKENS, setup.config.context // 2)].tolist()
    separators = {setup.tokenizer.bos_id, setup.tokenizer.eos_id}
    return setup.tokenizer.decode(id for id in ids if id not in separators).strip("\ufffd")


def _show_results(run: Run, step: int, max_steps: int, stopped: str | None, again: str) -> None:
    from gptworks.reports import plots

    picture = plots.loss_curve(run)
    measured = [row for row in run.metrics() if "val_loss" in row]
    if measured:
        best = min(measured, key=lambda row: row["val_loss"])
        terminal.show(
            f"validation loss {measured[-1]['val_loss']:.4f} ({measured[-1]['val_bpb']:.3f} bits per byte); "
            f"best {best['val_loss']:.4f} at step {best['step']}"
        )
    terminal.show(f"{run}: {step:,} of {counted(max_steps, 'step')}; loss curve in {picture}")
    if stopped:
        terminal.say(training.stopped_by(stopped, again))
    else:
        terminal.say(f"next: gptworks generate {run} --prompt '...'")
