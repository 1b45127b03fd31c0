"""`gptworks finetune instruct`: a MODEL and conversations in, a Run out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks import files
from gptworks.commands import training
from gptworks.commands.cli_checks import check_given
from gptworks.commands.training import AcceptChanges, Out, RecipeFile, Resume, Say
from gptworks.messages import counted
from gptworks.recipe import (
    DeviceOption,
    EvalOptions,
    InstructOptions,
    LogOptions,
    LoraOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.reports import terminal

if TYPE_CHECKING:
    from gptworks.model.build import Model
    from gptworks.processes import World
    from gptworks.train.instructing import InstructSetup
    from gptworks.train.session import TrainingSchedule


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
    device: DeviceOption = "auto",
    instruct: Annotated[InstructOptions, Parameter(name="*")] = InstructOptions(),  # noqa: B008 - frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    eval: EvalOptions = EvalOptions(),  # noqa: B008
    save: SaveOptions = SaveOptions(),  # noqa: B008
    log: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Fine-tune a GPT to follow instructions, from instruction data or conversations."""
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
    training.exit_if_stopped(
        train_instruct(whole, resume=resume, accept_changes=accept_changes, device=device)
    )


def train_instruct(
    recipe: Recipe, *, resume: bool = False, accept_changes: bool = False, device: str = "auto"
) -> str | None:
    """Train the run of a recipe on conversations, or resume it; returns what stopped it early, or None."""
    from gptworks.devices import set_onednn_cache

    check_given("finetune instruct", recipe, resume=resume)
    set_onednn_cache(0)  # the head's product would be kept as well, the largest of all
    with training.joined(recipe, device) as world:
        from gptworks.data import conversations
        from gptworks.host_memory import peak_memory, used_memory
        from gptworks.train import instructing, record

        say, held = training.remarks(world), used_memory(world.device)
        newest = training.checkpoint_to_resume(recipe.run, resume=resume)
        recipe = record.keep_resolved(recipe) if resume else recipe
        assert recipe.data is not None
        loaded = conversations.load(recipe.data, recipe.instruct)
        setup = instructing.resolve_recipe(recipe, loaded, world, resumed=newest.path if newest else None)
        recipe = instructing.resolved(recipe, setup)
        training.check(recipe, setup.provenance, setup.model, setup.plan, world, newest)
        ignores = record.INSTRUCTING_IGNORES
        changes = training.changes(
            recipe, setup.provenance, say, ignores, resume=resume, accept=accept_changes
        )
        schedule = _schedule(recipe, setup, world)
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
                    _show_results(recipe, setup, trainer.step, stopped)
                    training.write_report(recipe.run, stopped, say)
    return stopped


def _schedule(recipe: Recipe, setup: InstructSetup, world: World) -> TrainingSchedule:
    from gptworks.commands.evaluate import training_evaluator
    from gptworks.train.session import TrainingSchedule

    context = setup.model.config.context
    return TrainingSchedule(
        tokenizer=setup.tokenizer,
        steps_per_epoch=setup.task.steps_per_epoch,
        evaluate=setup.losses.get("val"),
        score=training_evaluator(recipe.eval, context, setup.tokenizer, world),
        adapted=setup.adapted,
        ragged=True,
    )


def _announce(setup: InstructSetup, say: Say) -> None:
    loaded = setup.conversations
    counts = ", ".join(f"{len(encoded):,} for {split}" for split, encoded in setup.encoded.items())
    say(f"{loaded.path}: {loaded.kind}; {counts}")
    for remark in loaded.remarks:
        say(remark)
    for split, encoded in setup.encoded.items():
        if encoded.shortened or encoded.dropped:
            say(
                f"{split}: {counted(encoded.shortened, 'example')} longer than the model's input: prompt truncated, "
                f"answer complete; {encoded.dropped:,} dropped because even that does not fit"
            )
        if encoded.dropped > len(encoded):
            say(
                f"{split}: most examples are dropped; a --model with a context of more than "
                f"{setup.model.config.context} tokens can train on all of them"
            )
    name = setup.template or "the MODEL's own"
    added = f"; new special tokens: {', '.join(setup.added)}" if setup.added else ""
    say(f"template: {'your own' if '{' in name else name}; an answer ends with {setup.tokenizer.eos}{added}")
    say(
        f"{training.trainable(setup.model)}; {counted(setup.plan.max_steps, 'step')} of "
        f"{counted(setup.task.batch_examples, 'example')}"
    )


def _show_results(recipe: Recipe, setup: InstructSetup, step: int, stopped: str | None) -> None:
    from gptworks.reports import plots

    run = recipe.run
    plots.loss_curve(run, unit="nats per target token")
    if stopped is None and len(setup.encoded["test"]):
        terminal.show(_measure(recipe, setup, setup.model))
    terminal.show(f"{run}: {step:,} of {counted(setup.plan.max_steps, 'step')}")
    if stopped:
        terminal.say(training.stopped_by(stopped))
    else:
        terminal.say(f"next: gptworks generate {run} --instruction '...'")


def _measure(recipe: Recipe, setup: InstructSetup, model: Model) -> str:
    """Loss on the test split before and after training, and scored answers to its first examples; described in words.

    Measures the last checkpoint, which the model still holds, and the loss of the best one on validation as well.
    """
    from gptworks.evaluation import answers
    from gptworks.model import folders
    from gptworks.train import instructing

    run, test, data = recipe.run, setup.losses["test"], setup.provenance
    last = run.checkpoint()
    prompts = setup.encoded["test"].conversations[: recipe.instruct.n_responses]
    rows = answers.respond(model, setup.tokenizer, prompts, recipe.instruct.max_response_tokens)
    losses = {
        "before": test(instructing.untrained(recipe, setup))["val_loss"],
        "last": test(model)["val_loss"],
    }
    if "val" in setup.losses and (best := run.checkpoint("best")) != last:
        folders.load_into(model, best)
        losses["best on validation"] = test(model)["val_loss"]
    n = len(test.rows)
    result: dict[str, Any] = {
        "split": "test",
        "checkpoint": last.name,
        "data": str(data.path),
        "data_fingerprint": data.fingerprint,
        "tokenizer_fingerprint": data.tokenizer_fingerprint,
        "chat_template": setup.tokenizer.chat_template,
        "remarks": list(setup.conversations.remarks),
        "shortened": {split: encoded.shortened for split, encoded in setup.encoded.items()},
        "dropped": {split: encoded.dropped for split, encoded in setup.encoded.items()},
        "loss": losses | {"unit": "nats per learned token", "examples": n},
    }
    if rows:
        result["responses"] = answers.scores(rows)
    (run / "results").mkdir(exist_ok=True)
    files.write_json(run / "results" / "responses.json", rows)
    files.write_json(run / "results" / "instruct-test.json", result)
    shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    line = f"test loss: {shown} (nats per target token, n = {n:,})"
    return line + (f"\n{answers.line(result['responses'])}" if rows else "")
