"""`gptworks pretrain`: a Dataset in, a Run out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks.commands.given import needed
from gptworks.commands.start import (
    RESUME,
    AcceptChanges,
    Job,
    Out,
    RecipeFile,
    Resume,
    finish,
    start,
    stopped,
)
from gptworks.errors import ConfigError
from gptworks.recipe import (
    EvalOptions,
    LogOptions,
    ModelOptions,
    OptimOptions,
    Recipe,
    SampleOptions,
    SaveOptions,
    TrainOptions,
)
from gptworks.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from gptworks.data.dataset import Dataset
    from gptworks.train.pretraining import Pretraining
    from gptworks.train.session import Duties
    from gptworks.train.trainer import Trainer
    from gptworks.world import World

OPENING_TOKENS = 8
"""What a sample goes on from where the model has not seen texts begin."""


def pretrain(
    recipe: RecipeFile = None,  # noqa: ARG001 - read by cli
    /,
    *,
    data: Annotated[Path | None, Parameter(help="Dataset folder, from `gptworks prepare`.")] = None,
    out: Out = None,
    base: Annotated[str | None, Parameter(help="MODEL to start from instead of new weights.")] = None,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
    eval: EvalOptions = EvalOptions(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    sample: SampleOptions = SampleOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Train a GPT on a Dataset.

    Stop it at any moment, even by pulling the plug: the same command with --resume goes on exactly.
    """
    needed("pretrain", resume=resume, data_DATASET=data, out_RUN=out)
    if train.dropout is not None:
        raise ConfigError("train.dropout is for fine-tuning; pretraining has model.dropout")
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
    finish(train_run(whole, resume=resume, accept_changes=accept_changes))


def train_run(
    recipe: Recipe,
    *,
    resume: bool,
    accept_changes: bool = False,
    again: str = RESUME,
) -> str | None:
    """Do, or go on with, the run a recipe describes; returns what stopped it early, or None. `again` makes it go on."""
    return start(recipe, partial(_settle, again=again), resume=resume, accept_changes=accept_changes)


def _settle(recipe: Recipe, world: World, resumed: Path | None, *, again: str) -> Job:
    from gptworks.data.dataset import Dataset
    from gptworks.train import pretraining, record

    assert recipe.data is not None
    dataset = Dataset.open(recipe.data)
    work = pretraining.settle(recipe, dataset, world, resumed=resumed)
    recipe = record.resolved(recipe, work)
    return Job(
        recipe=recipe,
        model=work.model,
        task=work.task,
        plan=work.plan,
        material=dataset,
        duties=_duties(recipe, work, dataset, world),
        ignores=record.PRETRAINING_IGNORES,
        announce=lambda say: _announce(work, dataset, world, say),
        farewell=lambda trainer, reason: _farewell(recipe, trainer, reason, again),
    )


def _announce(work: Pretraining, dataset: Dataset, world: World, say: Callable[[str], None]) -> None:
    from gptworks.model import sizing
    from gptworks.world import describe

    config, plan = work.config, work.plan
    rows = len(work.task.order.rows(0))
    say(f"{config.family} model: {sizing.parameters(config):,} parameters ({config.shape})")
    train = dataset.split("train")
    assert train is not None
    say(
        f"{dataset.path}: {train.n_tokens:,} tokens; {counted(plan.max_steps, 'step')} of {work.batch_tokens:,} = "
        f"{plan.max_steps / work.steps_per_epoch:.2f} epochs"
    )
    cut = -(-max(1, rows // world.size) // plan.micro_batch)
    say(
        f"{describe(world.device)}, {plan.precision}; {counted(rows, 'row')} a step, "
        f"{plan.micro_batch} at once ({counted(cut, 'time')})"
        + (f" on each of {world.size} processes" if world.size > 1 else "")
    )


def _duties(recipe: Recipe, work: Pretraining, dataset: Dataset, world: World) -> Duties:
    from gptworks.commands.evaluate import while_training
    from gptworks.model import sizing
    from gptworks.train import record
    from gptworks.train.peak import peak_flops
    from gptworks.train.session import Duties

    hours = recipe.train.max_hours
    assert recipe.out is not None
    known = record.peak(recipe.out, work.plan.precision.name, world)
    return Duties(
        tokenizer=work.tokenizer,
        evaluate=work.evaluate,
        score=while_training(recipe.eval, work.config.context, work.tokenizer, world),
        sample=_sampler(recipe, work, dataset) if recipe.sample.every else None,
        steps_per_epoch=work.steps_per_epoch,
        flops_per_token=sizing.flops_per_token(work.config),
        peak_flops=known or peak_flops(work.plan.precision) * world.size,
        eval=recipe.eval,
        save=recipe.save,
        sampling=recipe.sample,
        log=recipe.log,
        max_seconds=None if hours is None else hours * 3600,
        ragged=recipe.train.windows == "documents",
    )


def _sampler(
    recipe: Recipe, work: Pretraining, dataset: Dataset
) -> Callable[[nn.Module], list[dict[str, Any]]]:
    """The same engine and settings as `gptworks generate`, on the live model, without touching the training stream."""
    from gptworks.generate.engine import GenerateSettings, fitted, generate, prompt_ids
    from gptworks.train.parallel import unwrap

    options = recipe.sample
    settings = GenerateSettings(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=recipe.train.seed,
    )
    opening = _opening(dataset, work) if "" in options.prompts else ""
    prompts = [prompt or opening for prompt in options.prompts]
    for prompt in prompts:  # what is wrong with them is said now, not hours later
        fitted(work.model, prompt_ids(work.model, work.tokenizer, prompt), settings)

    def sample(model: nn.Module) -> list[dict[str, Any]]:
        return [
            {"prompt": prompt, "seed": settings.seed, "text": made.text}
            for prompt in prompts
            for made in generate(unwrap(model), work.tokenizer, prompt, settings)
        ]

    return sample


def _opening(dataset: Dataset, work: Pretraining) -> str:
    """What an empty prompt stands for: nothing, or of few documents the first words of held-out text.

    A model of one long text has never read what comes after a mark, and writes garbage there.
    """
    from gptworks.data.dataset import FEW_DOCUMENTS

    train = dataset.split("train")
    assert train is not None
    if train.n_documents >= FEW_DOCUMENTS:
        return ""
    ids = (
        (dataset.split("val") or train)
        .shards[0]
        .tokens[: min(OPENING_TOKENS, work.config.context // 2)]
        .tolist()
    )
    marks = {work.tokenizer.bos_id, work.tokenizer.eos_id}
    return work.tokenizer.decode(number for number in ids if number not in marks).strip("\ufffd")


def _farewell(recipe: Recipe, trainer: Trainer, reason: str | None, again: str) -> None:
    from gptworks import runs
    from gptworks.report import plots, terminal

    run = recipe.out
    assert run is not None
    picture = plots.loss_curve(run)
    measured = [row for row in runs.read_rows(run / "metrics.jsonl") if "val_loss" in row]
    if measured:
        best = min(measured, key=lambda row: row["val_loss"])
        print(
            f"validation loss {measured[-1]['val_loss']:.4f} ({measured[-1]['val_bpb']:.3f} bits per byte); "
            f"best {best['val_loss']:.4f} at step {best['step']}"
        )
    print(f"{run}: {trainer.step:,} of {counted(trainer.plan.max_steps, 'step')}; loss curve in {picture}")
    if reason:
        terminal.say(stopped(reason, again))
    else:
        terminal.say(f"next: gptworks generate {run} --prompt '...'")
