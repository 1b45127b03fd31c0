"""`gptworks plan`: does it fit, how long does it take, and what is the best that can be trained here in a time?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveFloat

from gptworks.commands.start import RecipeFile, needed
from gptworks.errors import ConfigError
from gptworks.recipe import ModelOptions, OptimOptions, Recipe, TrainOptions
from gptworks.recipefile import load, tables

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.model.config import ModelConfig
    from gptworks.plan.hours import Choice
    from gptworks.plan.needs import Work

BAR = 40


def plan(
    recipe: RecipeFile = None,
    /,
    *,
    hours: Annotated[
        PositiveFloat | None,
        Parameter(
            help="With a recipe: how far it gets in this time. With --data alone: choose the model for it."
        ),
    ] = None,
    device: Annotated[
        str | None,
        Parameter(help="cpu, a memory (8GB), or GPUs (h100, a100-40gb, h100x8). Default: this machine's."),
    ] = None,
    data: Annotated[Path | None, Parameter(help="Dataset folder.")] = None,
    out: Annotated[Path | None, Parameter(help="With --hours and --data: the recipe to write.")] = None,
    mfu: Annotated[
        PositiveFloat | None,
        Parameter(
            help="Share of the device's peak that training reaches. Default: 0.5 of a CPU's, 0.4 of a GPU's."
        ),
    ] = None,
    measure: Annotated[
        bool,
        Parameter(
            negative="", help="Train here for some seconds instead of assuming a speed; needs the Dataset."
        ),
    ] = False,
    price_per_hour: Annotated[PositiveFloat | None, Parameter(help="Of one device.")] = None,
    price_per_kwh: Annotated[PositiveFloat | None, Parameter(help="Of energy, in the same money.")] = None,
    watts: Annotated[
        PositiveFloat | None, Parameter(help="Of one device. Default: a known GPU's most.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
    tokenizer: Annotated[
        str | None, Parameter(help="What says the vocabulary's size, without a Dataset.")
    ] = None,
    base: Annotated[str | None, Parameter(help="MODEL to start from.")] = None,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
) -> None:
    """Say whether a pretraining recipe fits, what its memory is made of, and what it takes in time, FLOPs and money.

    With --hours and --data alone: measure this machine for a minute, and write the recipe of the best model for it.
    """
    if recipe is None and model == ModelOptions() and base is None and hours is not None:
        needed("plan --hours", data_DATASET=data)
        assert data is not None
        if device is not None or mfu is not None:
            raise ConfigError("plan --hours --data measures this machine: leave out --device and --mfu")
        _choose(data, hours, out or Path("recipe.toml"), as_json=as_json)
        return
    if out is not None:
        raise ConfigError("plan writes a recipe only for --hours and --data, without one: leave out --out")
    whole = Recipe(data=data, tokenizer=tokenizer, base=base, model=model, train=train, optim=optim)
    _refuse_finetuning(recipe)
    dataset = _dataset(whole.data)
    config = _config(whole, recipe, dataset)
    facts = _facts(_work(whole, config, dataset), dataset, device, mfu, hours, measured=measure)
    facts |= _costs(facts, watts, price_per_hour, price_per_kwh)
    title = str(recipe) if recipe else "this model"
    print(json.dumps(facts, indent=1) if as_json else f"{title}: " + "\n".join(_lines(facts)))


def _refuse_finetuning(file: Path | None) -> None:
    given = tables(file) if file else {}
    task = next((name for name in ("classify", "instruct") if name in given), None)
    if task is not None and "model" not in given:
        raise ConfigError(
            f"{file} fine-tunes: `gptworks finetune {task}` says what it needs as it begins; plan is for pretraining"
        )


def _work(recipe: Recipe, config: ModelConfig, dataset: Dataset | None) -> Work:
    from gptworks.plan import needs

    split = dataset.split("train") if dataset else None
    return needs.work(recipe, config, split.n_tokens if split else None)


def _facts(
    job: Work,
    dataset: Dataset | None,
    wanted: str | None,
    mfu: float | None,
    hours: float | None,
    *,
    measured: bool,
) -> dict[str, Any]:
    from gptworks.plan import devices, needs

    device, rate = devices.named(wanted, job.recipe.train), None
    if measured:
        if dataset is None or wanted not in {None, "cpu"}:
            raise ConfigError(
                "plan --measure trains here: it needs the recipe's Dataset, and no --device elsewhere"
            )
        rate = _measured_rate(job, dataset, needs.rows_of_one(job, device))
    pace = needs.time(job, device, mfu=mfu, measured=rate)
    return needs.facts(job, device, pace, hours=hours) | {"watts": device.watts}


def _measured_rate(job: Work, dataset: Dataset, rows: int) -> float:
    """Tokens/s of a few steps of one micro-batch."""
    from gptworks.plan import hours

    context, asked = job.config.context, job.recipe.train.micro_batch
    at_once = min(rows, asked if isinstance(asked, int) else max(1, 2048 // context))
    train = dataclasses.replace(job.recipe.train, batch_tokens=at_once * context, epochs=None)
    recipe = dataclasses.replace(job.recipe, train=train)
    return at_once * context / hours.measure(recipe, dataset, 20.0).step


def _costs(
    facts: dict[str, Any], watts: float | None, hourly: float | None, kwh: float | None
) -> dict[str, Any]:
    from gptworks.plan import needs

    return needs.costs(facts, watts or facts["watts"], hourly, kwh)


def _dataset(folder: Path | None) -> Dataset | None:
    """The recipe's, if it has been prepared."""
    if folder is None or not (folder / "manifest.json").is_file():
        return None
    from gptworks.data.dataset import Dataset

    return Dataset.open(folder, verify=False)


def _config(recipe: Recipe, file: Path | None, dataset: Dataset | None) -> ModelConfig:
    """The model's shape. Without its Dataset, the vocabulary is the tokenizer's, or the one that is to be trained."""
    before = load(file) if file else Recipe()
    added = len(before.prepare.add_tokens)
    from gptworks.model import checkpoint, find
    from gptworks.model.config import resolve
    from gptworks.text.find import GPT2_NAMES
    from gptworks.text.tokenizer import Tokenizer

    if recipe.base is not None:
        return checkpoint.read_config(find.resolve(recipe.base))
    if dataset is not None:
        return resolve(recipe.model, dataset.vocab_size)
    if recipe.tokenizer is None or recipe.tokenizer in GPT2_NAMES:
        return resolve(recipe.model, 50257 + added)
    if Path(recipe.tokenizer).exists():
        return resolve(recipe.model, Tokenizer.load(recipe.tokenizer).vocab_size + added)
    return resolve(recipe.model, before.bpe.vocab_size + added)


def _lines(facts: dict[str, Any]) -> list[str]:
    """A plan in words."""
    many = f"{facts['devices']} x " if facts["devices"] > 1 else ""
    how = "" if facts["parallel"] == "none" else f", {facts['parallel']}"
    lines = [
        _size(facts),
        f"on {many}{facts['device']}, {facts['precision']}{how}; {facts['batch_tokens']:,} tokens a step, "
        f"{facts['micro_batch']} rows at once ({facts['micro_batches']} times)",
        "",
        *_memory(facts),
        "",
        *_effort(facts),
    ]
    if "tokens_per_second" in facts:
        lines += _speed(facts)
    else:
        lines.append(
            "time            not known: --device names a memory alone; name a GPU, or measure where it stands"
        )
    if "cost" in facts:
        lines.append(f"cost            {facts['cost']:,.2f} for {facts['device_hours']:,.1f} device hours")
    if facts.get("energy_kwh") is not None:
        lines.append(f"energy          {facts['energy_kwh']:,.1f} kWh at most, of the devices alone")
    return lines


def _size(facts: dict[str, Any]) -> str:
    return (
        f"{facts['parameters']:,} parameters ({facts['n_layer']} layers, {facts['n_embd']} wide, "
        f"context {facts['context']})"
    )


def _memory(facts: dict[str, Any]) -> list[str]:
    total, room = facts["memory_total"], facts["memory_room"]
    lines = []
    for name, size in facts["memory"].items():
        if size:
            lines.append(f"{name:<27} {size / 1e9:8.3f} GB  {'#' * round(BAR * size / total)}")
    where = "" if room is None else f", of {room / 1e9:.2f} GB that may be filled"
    lines.append(
        f"{'together':<27} {total / 1e9:8.3f} GB{where}: {'it fits' if facts['fits'] else 'it does not fit'}"
    )
    if facts["change"]:
        lines.append(f"what would fit: {facts['change']}")
    return lines


def _effort(facts: dict[str, Any]) -> list[str]:
    from gptworks.plan.needs import TOKENS_PER_PARAMETER

    if facts["tokens"] is None:
        return ["tokens          not known before the Dataset is prepared, or without --train.max-steps"]
    return [
        f"tokens          {facts['tokens']:,} in {facts['steps']:,} steps: {facts['tokens_per_parameter']:.1f} for "
        f"each parameter (compute-optimal: about {TOKENS_PER_PARAMETER})",
        f"FLOPs           {facts['flops']:.3g} by 6N + 12LCT, {facts['flops_per_token']:.3g} a token",
    ]


def _speed(facts: dict[str, Any]) -> list[str]:
    from gptworks.report.terminal import clock

    words = ""
    if facts["mfu_6n_12lct"] is not None:
        words = f", MFU {facts['mfu_6n_12lct']:.1%} by 6N + 12LCT, {facts['mfu_6n_6lct']:.1%} by 6N + 6LCT"
    lines = [f"speed           {facts['tokens_per_second']:,.0f} tokens/s ({facts['speed_is']}){words}"]
    if facts["devices"] > 1:
        lines.append(
            f"traffic         {facts['traffic_bytes_per_step'] / 1e9:.2f} GB a step from each device: "
            f"{facts['traffic_seconds_per_step']:.3f} s beside {facts['compute_seconds_per_step']:.3f} s of computing"
        )
    if facts["hours"] is not None:
        lines.append(f"time            {clock(facts['hours'] * 3600)} ({facts['hours']:.2f} h)")
    if "steps_in_that_time" in facts:
        steps = facts["steps_in_that_time"]
        lines.append(f"in {facts['hours_asked']:g} h           {steps:,} steps: --train.max-steps {steps}")
    return lines


def _choose(data: Path, hours: float, out: Path, *, as_json: bool) -> None:
    from gptworks import runs
    from gptworks.data.dataset import Dataset
    from gptworks.plan.hours import choose
    from gptworks.recipefile import dumps
    from gptworks.report import terminal

    if out.exists():
        raise ConfigError(f"{out} is there already: give another --out, or remove it")
    dataset = Dataset.open(data)
    terminal.say("measuring this machine, for a minute at most")
    found = choose(dataset, hours * 3600, Path("runs") / out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(
        out, f"# Planned by `gptworks plan --hours {hours:g} --data {data}`.\n{dumps(found.recipe)}"
    )
    facts = _chosen(found, out)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for (layers, width, _), rate in found.looked_at:
        print(f"measured: {layers} layers, {width} wide: {rate:,.0f} tokens/s")
    print(
        f"chosen: {_size(facts)}; {facts['steps']:,} steps of {facts['batch_tokens']:,} tokens, "
        f"{facts['step_seconds']:.3g} s each"
    )
    print(
        f"{facts['tokens_per_parameter']:.1f} tokens for each parameter; {facts['epochs']:.2f} passes over the data"
    )
    print(f"{out}; next: gptworks pretrain {out}")


def _chosen(found: Choice, out: Path) -> dict[str, Any]:
    from gptworks.data.dataset import Dataset
    from gptworks.model import sizing

    assert found.recipe.data is not None
    split = Dataset.open(found.recipe.data, verify=False).split("train")
    assert split is not None
    tokens = found.steps * (found.recipe.train.batch_tokens or 0)
    parameters = sizing.parameters(found.config)
    return {
        "recipe": str(out),
        "parameters": parameters,
        "n_layer": found.config.n_layer,
        "n_embd": found.config.n_embd,
        "context": found.config.context,
        "batch_tokens": found.recipe.train.batch_tokens,
        "micro_batch": found.pace.micro_batch,
        "steps": found.steps,
        "tokens": tokens,
        "epochs": tokens / split.n_tokens,
        "tokens_per_parameter": tokens / parameters,
        "step_seconds": found.pace.step,
        "evaluation_seconds": found.pace.evaluation,
        "checkpoint_seconds": found.pace.checkpoint,
        "predicted_loss": found.predicted_loss,
    }
