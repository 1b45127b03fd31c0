"""`gptworks plan`: does it fit, how long does it take, and what is the best that can be trained here in a time?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from gptworks.commands.given import needed
from gptworks.commands.start import RecipeFile
from gptworks.errors import ConfigError
from gptworks.recipe import LoraOptions, ModelOptions, OptimOptions, Positive, Recipe, TrainOptions
from gptworks.recipefile import load, tables
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.model.config import ModelConfig
    from gptworks.plan.hours import Choice
    from gptworks.plan.needs import Work
    from gptworks.plan.teaching import Kind

KINDS: tuple[Kind, ...] = ("classify", "instruct")


def plan(
    recipe: RecipeFile = None,
    /,
    *,
    hours: Annotated[
        Positive | None,
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
        float | None,
        Parameter(
            validator=Number(gt=0, lte=1),
            help="Share of the device's peak that training reaches. Default: 0.5 of a CPU's, 0.4 of a GPU's.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        Parameter(
            negative="", help="Train here for some seconds instead of assuming a speed; needs the Dataset."
        ),
    ] = False,
    price_per_hour: Annotated[Positive | None, Parameter(help="Of one device.")] = None,
    price_per_kwh: Annotated[Positive | None, Parameter(help="Of energy, in the same money.")] = None,
    watts: Annotated[Positive | None, Parameter(help="Of one device. Default: a known GPU's most.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
    tokenizer: Annotated[
        str | None, Parameter(help="What says the vocabulary's size, without a Dataset.")
    ] = None,
    base: Annotated[str | None, Parameter(help="MODEL to start from.")] = None,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
) -> None:
    """Say whether a recipe fits, what its memory is made of, and what pretraining takes in time, FLOPs and money.

    Fine-tuning with adapters needs no recipe: --base MODEL --lora.rank 8.

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
    whole = Recipe(
        data=data, tokenizer=tokenizer, base=base, model=model, lora=lora, train=train, optim=optim
    )
    taught = _taught(whole, recipe)
    if taught is not None:
        extra = {"hours": hours, "mfu": mfu, "price-per-hour": price_per_hour, "price-per-kwh": price_per_kwh}
        _refuse(taught, extra | {"measure": measure or None})
        facts, lines = _teaching(whole, recipe, taught, device)
    else:
        dataset = _dataset(whole.data)
        config = _config(whole, recipe, dataset)
        facts = _facts(_work(whole, config, dataset), dataset, device, mfu, hours, measured=measure)
        facts |= _costs(facts, watts, price_per_hour, price_per_kwh)
        lines = _lines(facts)
    title = str(recipe) if recipe else "this model"
    print(json.dumps(facts, indent=1) if as_json else f"{title}: " + "\n".join(lines))


def _taught(recipe: Recipe, file: Path | None) -> Kind | None:
    """The kind of fine-tuning that a recipe does; None if it pretrains.

    Raises:
        ConfigError: it trains nothing.
    """
    given = tables(file) if file else {}
    if "model" not in given:
        for kind in KINDS:
            if kind in given:
                return kind
        if file is not None and not given.keys() & {"train", "optim", "base"}:
            raise ConfigError(f"{file} trains nothing: plan is for recipes that pretrain or fine-tune")
    return "instruct" if recipe.lora.rank else None


def _refuse(kind: Kind, given: Mapping[str, object]) -> None:
    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None:
        raise ConfigError(
            f"how long fine-tuning takes depends on its examples, and `gptworks finetune {kind}` says it as it begins: "
            f"leave out --{name}"
        )


def _teaching(
    recipe: Recipe, file: Path | None, kind: Kind, wanted: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Facts of a fine-tuning, and the same in words."""
    from gptworks.plan import devices, teaching, words

    base = recipe.base
    if base is None:
        raise ConfigError(
            f"{file or 'plan --lora.rank'} fine-tunes: say what, with --base MODEL (gpt2-xl is known by its name)"
        )
    before = load(file) if file else Recipe()
    recipe = dataclasses.replace(recipe, classify=before.classify, instruct=before.instruct)
    facts = teaching.facts(recipe, _shape(base), kind, devices.named(wanted, recipe.train))
    return facts, words.teaching(facts)


def _shape(base: str) -> ModelConfig:
    """Of a MODEL; of one whose name is a preset's, without asking the Hub."""
    from gptworks.model import checkpoint, find
    from gptworks.model.config import PRESETS, resolve

    if base in PRESETS and not Path(base).exists():
        return resolve(ModelOptions(preset=base), 50257)
    return checkpoint.read_config(find.resolve(base))


def _lines(facts: dict[str, Any]) -> list[str]:
    from gptworks.plan import words

    return words.pretraining(facts)


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
    return at_once * context / hours.measure(recipe, dataset, hours.LONGER_LOOK).step


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
    from gptworks.model.config import resolve
    from gptworks.text.find import GPT2_NAMES
    from gptworks.text.tokenizer import Tokenizer

    if recipe.base is not None:
        return _shape(recipe.base)
    if dataset is not None:
        return resolve(recipe.model, dataset.vocab_size)
    if recipe.tokenizer is None or recipe.tokenizer in GPT2_NAMES:
        return resolve(recipe.model, 50257 + added)
    if Path(recipe.tokenizer).exists():
        return resolve(recipe.model, Tokenizer.load(recipe.tokenizer).vocab_size + added)
    return resolve(recipe.model, before.bpe.vocab_size + added)


def _choose(data: Path, hours: float, out: Path, *, as_json: bool) -> None:
    from gptworks import runs
    from gptworks.data.dataset import Dataset
    from gptworks.plan import words
    from gptworks.plan.hours import choose
    from gptworks.recipefile import dumps
    from gptworks.report import terminal
    from gptworks.train.record import PRETRAINING_IGNORES

    if out.exists():
        raise ConfigError(f"{out} is there already: give another --out, or remove it")
    dataset = Dataset.open(data)
    terminal.say("measuring this machine, for a minute at most")
    found = choose(dataset, hours * 3600, Path("runs") / out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = _chosen(found, out)
    speed = f"measured: {facts['batch_tokens'] / facts['step_seconds']:,.0f} tokens/s"
    head = f"# Planned by `gptworks plan --hours {hours:g} --data {data}`; {speed}.\n"
    runs.write_text(out, head + dumps(found.recipe, PRETRAINING_IGNORES))
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for (layers, width, _), rate in found.looked_at:
        print(f"measured: {counted(layers, 'layer')}, {width} wide: {rate:,.0f} tokens/s")
    print(
        f"chosen: {words.size(facts)}; {counted(facts['steps'], 'step')} of {facts['batch_tokens']:,} tokens, "
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
