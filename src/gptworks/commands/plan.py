"""`gptworks plan`: does it fit, how long does it take, and which model is best for a given time?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from gptworks import packaged
from gptworks.commands.cli_checks import needed
from gptworks.commands.training import RecipeFile
from gptworks.errors import ConfigError
from gptworks.messages import counted
from gptworks.recipe import LoraOptions, ModelOptions, OptimOptions, Positive, Recipe, TrainOptions
from gptworks.recipefile import load, tables

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.model.config import ModelConfig
    from gptworks.planning.finetuning import Kind
    from gptworks.planning.pretraining import Workload
    from gptworks.planning.time_budget import Suggestion

KINDS: tuple[Kind, ...] = ("classify", "instruct")


def plan(
    recipe: RecipeFile = None,
    /,
    *,
    hours: Annotated[
        Positive | None,
        Parameter(
            help="With a recipe: how far it gets in this time. With --data alone: choose a model for it."
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        Parameter(
            help="Hardware to plan for: cpu, a memory (8GB) or GPUs (h100, a100-40gb, h100x8). Default: this machine."
        ),
    ] = None,
    data: Annotated[Path | None, Parameter(help="Dataset folder.")] = None,
    out: Annotated[Path | None, Parameter(help="With --hours and --data: the recipe to write.")] = None,
    mfu: Annotated[
        float | None,
        Parameter(
            validator=Number(gt=0, lte=1),
            help="Fraction of the peak FLOP/s that training reaches. Default: 0.5 on a CPU, 0.4 on a GPU.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        Parameter(negative="", help="Train here for some seconds to measure the speed; needs the Dataset."),
    ] = False,
    price_per_hour: Annotated[Positive | None, Parameter(help="Price per device-hour.")] = None,
    price_per_kwh: Annotated[Positive | None, Parameter(help="Price of a kWh, in the same currency.")] = None,
    watts: Annotated[
        Positive | None, Parameter(help="Power of one device. Default: a known GPU's maximum.")
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
    tokenizer: Annotated[
        str | None, Parameter(help="Tokenizer that gives the vocabulary's size, without a Dataset.")
    ] = None,
    base: Annotated[str | None, Parameter(help="MODEL to start from.")] = None,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    lora: LoraOptions = LoraOptions(),  # noqa: B008
    train: TrainOptions = TrainOptions(),  # noqa: B008
    optim: OptimOptions = OptimOptions(),  # noqa: B008
) -> None:
    """Show whether a recipe fits into memory, and what it takes in time, FLOPs and money.

    Fine-tuning with adapters needs no recipe: --base MODEL --lora.rank 8.

    With --hours and --data alone: measure this machine for a minute and write a recipe for the best model.
    """
    recipe = packaged.find(recipe) if recipe is not None else None
    if recipe is None and model == ModelOptions() and base is None and hours is not None:
        needed("plan --hours", "--data DATASET", data)
        assert data is not None
        if hardware is not None or mfu is not None:
            raise ConfigError("plan --hours --data measures this machine; leave out --hardware and --mfu")
        _choose(data, hours, out or Path("recipe.toml"), as_json=as_json)
        return
    if out is not None:
        raise ConfigError("plan writes a recipe only with --hours and --data and no recipe; leave out --out")
    merged = Recipe(
        data=data, tokenizer=tokenizer, base=base, model=model, lora=lora, train=train, optim=optim
    )
    from gptworks.planning import formatting, pretraining
    from gptworks.planning.hardware import parse_hardware

    if (kind := _finetuning_kind(merged, recipe)) is not None:
        times = {"hours": hours, "mfu": mfu, "price-per-hour": price_per_hour, "price-per-kwh": price_per_kwh}
        _refuse_times(kind, times | {"measure": measure or None})
        facts = _finetuning_facts(merged, recipe, kind, hardware)
        lines = formatting.finetuning(facts)
    else:
        dataset = _dataset(merged.data)
        job = _workload(merged, recipe, dataset)
        target = parse_hardware(hardware, train)
        rate = (
            _measured_rate(job, dataset, hardware, pretraining.rows_per_device(job, target))
            if measure
            else None
        )
        speed = pretraining.estimate_speed(job, target, mfu=mfu, measured=rate)
        facts = pretraining.facts(job, target, speed, hours=hours) | {"watts": target.watts}
        facts |= pretraining.costs(facts, watts or target.watts, price_per_hour, price_per_kwh)
        lines = formatting.pretraining(facts)
    title = str(recipe) if recipe else "this model"
    print(json.dumps(facts, indent=1) if as_json else f"{title}: " + "\n".join(lines))


def _finetuning_kind(recipe: Recipe, file: Path | None) -> Kind | None:
    """The kind of fine-tuning in a recipe; None if it pretrains.

    Raises:
        ConfigError: the recipe trains nothing.
    """
    given = tables(file) if file else {}
    if "model" not in given:
        for kind in KINDS:
            if kind in given:
                return kind
        if file is not None and not given.keys() & {"train", "optim", "base"}:
            raise ConfigError(f"{file} trains nothing; plan takes recipes that pretrain or fine-tune")
    return "instruct" if recipe.lora.rank else None


def _refuse_times(kind: Kind, options: Mapping[str, object]) -> None:
    name = next((name for name, value in options.items() if value is not None), None)
    if name is not None:
        raise ConfigError(
            f"the time to fine-tune depends on the examples, and `gptworks finetune {kind}` shows it when it starts; "
            f"leave out --{name}"
        )


def _finetuning_facts(recipe: Recipe, file: Path | None, kind: Kind, hardware: str | None) -> dict[str, Any]:
    from gptworks.planning import finetuning
    from gptworks.planning.hardware import parse_hardware

    if recipe.base is None:
        raise ConfigError(
            f"{file or 'plan --lora.rank'} fine-tunes a model; give it with --base MODEL, such as gpt2-xl"
        )
    in_file = load(file) if file else Recipe()
    recipe = dataclasses.replace(recipe, classify=in_file.classify, instruct=in_file.instruct)
    return finetuning.facts(recipe, _base_config(recipe.base), kind, parse_hardware(hardware, recipe.train))


def _base_config(base: str | None) -> ModelConfig:
    """The shape of a MODEL; of a preset's name, without a download."""
    from gptworks.model import checkpoint, find
    from gptworks.model.config import PRESETS, resolve_config

    assert base is not None
    if base in PRESETS and not Path(base).exists():
        return resolve_config(ModelOptions(preset=base), 50257)
    return checkpoint.read_config(find.find_checkpoint(base))


def _dataset(folder: Path | None) -> Dataset | None:
    """The recipe's Dataset, if it is prepared already."""
    if folder is None or not (folder / "manifest.json").is_file():
        return None
    from gptworks.data.dataset import Dataset

    return Dataset.open(folder, verify=False)


def _workload(recipe: Recipe, file: Path | None, dataset: Dataset | None) -> Workload:
    from gptworks.planning import pretraining

    split = dataset.split("train") if dataset else None
    return pretraining.workload(recipe, _config(recipe, file, dataset), split.n_tokens if split else None)


def _config(recipe: Recipe, file: Path | None, dataset: Dataset | None) -> ModelConfig:
    """The model's shape. Without a Dataset, the vocabulary is that of the tokenizer, or of the one to be trained."""
    from gptworks.model.config import resolve_config
    from gptworks.text.find import GPT2_NAMES
    from gptworks.text.tokenizer import Tokenizer

    if recipe.base is not None:
        return _base_config(recipe.base)
    if dataset is not None:
        return resolve_config(recipe.model, dataset.vocab_size)
    in_file = load(file) if file else Recipe()
    if recipe.tokenizer is None or recipe.tokenizer in GPT2_NAMES:
        vocab_size = 50257
    elif Path(recipe.tokenizer).exists():
        vocab_size = Tokenizer.load(recipe.tokenizer).vocab_size
    else:
        vocab_size = in_file.bpe.vocab_size
    return resolve_config(recipe.model, vocab_size + len(in_file.prepare.add_tokens))


def _measured_rate(job: Workload, dataset: Dataset | None, hardware: str | None, rows: int) -> float:
    """Tokens/s of a few steps of one micro-batch on this machine."""
    from gptworks.planning.time_budget import FINAL_PROBE_SECONDS, measure

    if dataset is None or hardware not in {None, "cpu"}:
        raise ConfigError(
            "plan --measure trains on this machine; it needs the recipe's Dataset, and no --hardware"
        )
    context, micro_batch = job.config.context, job.recipe.train.micro_batch
    rows = min(rows, micro_batch if isinstance(micro_batch, int) else max(1, 2048 // context))
    train = dataclasses.replace(job.recipe.train, batch_tokens=rows * context, epochs=None)
    recipe = dataclasses.replace(job.recipe, train=train)
    return rows * context / measure(recipe, dataset, FINAL_PROBE_SECONDS).step


def _choose(data: Path, hours: float, out: Path, *, as_json: bool) -> None:
    from gptworks import files
    from gptworks.data.dataset import Dataset
    from gptworks.planning.formatting import model_size
    from gptworks.planning.time_budget import choose
    from gptworks.recipefile import dumps
    from gptworks.reports import terminal
    from gptworks.train.record import PRETRAINING_IGNORES

    if out.exists():
        raise ConfigError(f"{out} exists already; give another --out, or remove it")
    dataset = Dataset.open(data)
    terminal.say("measuring this machine for about a minute")
    suggestion = choose(dataset, hours * 3600, Path("runs") / out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = _suggestion_facts(suggestion, dataset, out)
    speed = f"{facts['batch_tokens'] / facts['step_seconds']:,.0f} tokens/s measured"
    head = f"# Planned by `gptworks plan --hours {hours:g} --data {data}`; {speed}.\n"
    files.write_text(out, head + dumps(suggestion.recipe, PRETRAINING_IGNORES))
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for size, rate in suggestion.probed:
        print(f"measured: {counted(size.n_layer, 'layer')}, {size.n_embd} wide: {rate:,.0f} tokens/s")
    print(
        f"chosen: {model_size(facts)}; {counted(facts['steps'], 'step')} of {facts['batch_tokens']:,} tokens, "
        f"{facts['step_seconds']:.3g} s each"
    )
    print(f"{facts['tokens_per_parameter']:.1f} tokens per parameter; {facts['epochs']:.2f} epochs")
    print(f"wrote {out}; next: gptworks pretrain {out}")


def _suggestion_facts(suggestion: Suggestion, dataset: Dataset, out: Path) -> dict[str, Any]:
    from gptworks.model import sizing

    split, config = dataset.split("train"), suggestion.config
    assert split is not None
    tokens = suggestion.steps * (suggestion.recipe.train.batch_tokens or 0)
    parameters = sizing.parameters(config)
    return {
        "recipe": str(out),
        "parameters": parameters,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "context": config.context,
        "batch_tokens": suggestion.recipe.train.batch_tokens,
        "micro_batch": suggestion.times.micro_batch,
        "steps": suggestion.steps,
        "tokens": tokens,
        "epochs": tokens / split.n_tokens,
        "tokens_per_parameter": tokens / parameters,
        "step_seconds": suggestion.times.step,
        "evaluation_seconds": suggestion.times.evaluation,
        "checkpoint_seconds": suggestion.times.checkpoint,
        "predicted_loss": suggestion.predicted_loss,
    }
