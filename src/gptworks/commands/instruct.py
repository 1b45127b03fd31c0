"""`gptworks finetune instruct`: a MODEL and conversations in, a Run out."""

from __future__ import annotations

from collections.abc import Callable
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
from gptworks.recipe import (
    FinetuneEval,
    FinetuneOptim,
    InstructOptions,
    LogOptions,
    LoraOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.model.build import Model
    from gptworks.train.instructing import Instructing
    from gptworks.train.session import Duties
    from gptworks.train.trainer import Trainer
    from gptworks.world import World


def instruct(
    recipe: RecipeFile = None,  # noqa: ARG001 - read by cli
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="MODEL to start from: a run, a model folder or a Hub id.")
    ] = None,
    data: Annotated[
        Path | None,
        Parameter(
            help="JSON, JSONL, CSV or Parquet with instruction, input and output, or with messages; a zip of one, a "
            "folder of splits, or hf:OWNER/NAME[:CONFIG][@REVISION]."
        ),
    ] = None,
    out: Out = None,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    instruct: Annotated[InstructOptions, Parameter(name="*")] = InstructOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: FinetuneOptim = FinetuneOptim(),  # noqa: B008
    eval: FinetuneEval = FinetuneEval(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Teach a GPT to answer, from instructions or conversations."""
    from gptworks.world import keep_few_products

    needed("finetune instruct", resume=resume, model_MODEL=model, data_FILE=data, out_RUN=out)
    keep_few_products(0)  # among them the head's, the largest
    whole = Recipe(
        data=data,
        out=out,
        base=model,
        instruct=instruct,
        lora=lora,
        train=train,
        optim=optim,
        eval=eval,
        save=save,
        log=log,
    )
    finish(start(whole, _settle, resume=resume, accept_changes=accept_changes))


def _settle(recipe: Recipe, world: World, resumed: Path | None) -> Job:
    from gptworks.data import conversations
    from gptworks.train import instructing, record

    assert recipe.data is not None
    found = conversations.load(recipe.data, recipe.instruct)
    work = instructing.settle(recipe, found, world, resumed=resumed)
    recipe = instructing.resolved(recipe, work)
    return Job(
        recipe=recipe,
        model=work.model,
        task=work.task,
        plan=work.plan,
        material=work,
        duties=_duties(recipe, work, world),
        ignores=record.INSTRUCTING_IGNORES,
        announce=lambda say: _announce(work, say),
        farewell=lambda trainer, reason: _farewell(recipe, work, trainer, reason),
        memory=work.memory,
    )


def _announce(work: Instructing, say: Callable[[str], None]) -> None:
    found = work.conversations
    say(
        f"{found.path}: {found.kind}; "
        + ", ".join(f"{len(encoded):,} to {split}" for split, encoded in work.encoded.items())
    )
    for remark in found.remarks:
        say(remark)
    for split, encoded in work.encoded.items():
        if encoded.shortened or encoded.dropped:
            say(
                f"{split}: {counted(encoded.shortened, 'example')} longer than the model reads: shortened, their "
                f"answers whole; {encoded.dropped:,} that would not fit even so: left out"
            )
        if encoded.dropped > len(encoded):
            say(
                f"{split}: most of it is left out; a --model that reads more than {work.model.config.context} tokens "
                "learns from all of it"
            )
    name = work.template or "the MODEL's own"
    say(
        f"template: {'your own' if '{' in name else name}; an answer ends with {work.tokenizer.eos}"
        + (f"; new tokens: {', '.join(work.added)}" if work.added else "")
    )
    every = sum(param.numel() for param in work.model.parameters())
    trained = sum(param.numel() for param in work.model.parameters() if param.requires_grad)
    say(
        f"{trained:,} of {every:,} parameters are trained; {counted(work.plan.max_steps, 'step')} of "
        f"{counted(work.task.size, 'example')}"
    )


def _duties(recipe: Recipe, work: Instructing, world: World) -> Duties:
    from gptworks.commands.evaluate import while_training
    from gptworks.train.session import Duties

    hours = recipe.train.max_hours
    return Duties(
        tokenizer=work.tokenizer,
        evaluate=work.losses.get("val"),
        score=while_training(recipe.eval, work.model.config.context, work.tokenizer, world),
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


def _farewell(recipe: Recipe, work: Instructing, trainer: Trainer, reason: str | None) -> None:
    from gptworks.report import plots, terminal

    run = recipe.out
    assert run is not None
    plots.loss_curve(run, unit="nats per learned token")
    if reason is None and len(work.encoded["test"]):
        print(_measure(recipe, work, work.model))  # whole, whichever way it was shared
    print(f"{run}: {trainer.step:,} of {counted(work.plan.max_steps, 'step')}")
    if reason:
        terminal.say(stopped(reason))
    else:
        terminal.say(f"next: gptworks generate {run} --instruction '...'")


def _measure(recipe: Recipe, work: Instructing, model: Model) -> str:
    """Loss on the test split before and after, and answers to its first examples, with scores; and what to say of it.

    Of the last checkpoint, which the model still is; the loss also of the best on validation, where that is another.
    """
    from gptworks import runs
    from gptworks.evaluate import answers
    from gptworks.model import folders
    from gptworks.train import instructing

    run, test = recipe.out, work.losses["test"]
    assert run is not None
    last = runs.find_checkpoint(run)
    asked = work.encoded["test"].conversations[: recipe.instruct.responses]
    rows = answers.respond(model, work.tokenizer, asked, recipe.instruct.answer_tokens)
    losses = {
        "before": test(instructing.untrained(recipe, work))["val_loss"],
        "last": test(model)["val_loss"],
    }
    if "val" in work.losses and (best := runs.find_checkpoint(run, "best")) != last:
        folders.read_into(model, best)
        losses["best on validation"] = test(model)["val_loss"]
    result: dict[str, Any] = {
        "split": "test",
        "checkpoint": last.name,
        "data": str(work.path),
        "data_fingerprint": work.fingerprint,
        "tokenizer_fingerprint": work.tokenizer_fingerprint,
        "chat_template": work.tokenizer.chat_template,
        "remarks": list(work.conversations.remarks),
        "shortened": {split: encoded.shortened for split, encoded in work.encoded.items()},
        "dropped": {split: encoded.dropped for split, encoded in work.encoded.items()},
        "loss": losses | {"unit": "nats per learned token", "examples": len(test.task.examples)},
    }
    if rows:
        result["responses"] = answers.scores(rows)
    (run / "results").mkdir(exist_ok=True)
    runs.write_json(run / "results" / "responses.json", rows)
    runs.write_json(run / "results" / "instruct-test.json", result)
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    line = f"test loss: {said} (nats per learned token, n = {len(test.task.examples):,})"
    return line + (f"\n{answers.line(result['responses'])}" if rows else "")
