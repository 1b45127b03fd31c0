"""`gptworks quickstart`: from text to a trained model in a few minutes, without downloads."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveFloat

from gptworks.recipe import (
    BpeOptions,
    DeviceOption,
    EvalOptions,
    LogOptions,
    PrepareOptions,
    Recipe,
    SaveOptions,
)
from gptworks.recipefile import load
from gptworks.runs import Run

if TYPE_CHECKING:
    from gptworks.data.dataset import Dataset
    from gptworks.model.build import Model
    from gptworks.text.tokenizer import Tokenizer

PROMPTS = ("def ", "import ", "class ", "    if ", "for ")
VOCABULARY = 4096
SIZES = (
    (0.0, 4, 128, 128, 2048),
    (2e13, 6, 256, 256, 4096),
    (3e14, 8, 512, 256, 16_384),
    (3e15, 12, 768, 256, 65_536),
)
"""(FLOPs that fit the time, layers, width, context, tokens per step): small enough to see the whole corpus."""

GRACE = 20.0
"""Seconds on top of 1.3 times the requested time: a busy machine must not keep a person waiting forever."""


def quickstart(
    *,
    out: Annotated[Path, Parameter(help="Folder for the tokenizer, the Dataset and the run.")] = Path(
        "gptworks-quickstart"
    ),
    minutes: Annotated[PositiveFloat, Parameter(help="About how long to train.")] = 3.0,
    device: DeviceOption = "auto",
) -> None:
    """Train a small GPT on the source of the installed Python, and see what it writes.

    Nothing is downloaded. Run it again to continue after a stop.
    """
    from gptworks.commands.pretrain import train_run
    from gptworks.commands.training import exit_if_stopped
    from gptworks.reports import terminal

    say, began = terminal.say, time.monotonic()
    dataset = _dataset(out, say)
    run = Run(out / "run")
    recipe = _planned(run, dataset, minutes * 60, device, say)
    stopped = train_run(recipe, resume=True, device=device, again="the same command again")
    if stopped != "train.max_hours":
        exit_if_stopped(stopped)
    _show(run, dataset, device)
    if stopped:
        print("\nTime ran out before the last step: run the same command again to continue.")
    print(f"\nThat took {terminal.clock(time.monotonic() - began)}. What to type next:")
    print(f"  gptworks generate {run} --prompt 'def read_' --samples 3")
    print(f"  gptworks inspect {run}")
    print(f"  gptworks prepare --sources YOUR_TEXTS --tokenizer {out / 'tokenizer'} --out {out / 'mine'}")
    print(
        f"  gptworks pretrain --data {out / 'mine'} --out {out / 'my-run'} --model.n-layer 6 --model.n-head 6 \\"
    )
    print("      --model.n-embd 384 --model.context 256 --train.max-steps 500 --train.batch-tokens 8192")


def _dataset(out: Path, say: Callable[[str], None]) -> Dataset:
    """Tokenizer and Dataset of this Python's own text, made once."""
    from gptworks.data.prepare import prepare
    from gptworks.data.work_units import read_documents
    from gptworks.text import bpe
    from gptworks.text.tokenizer import Tokenizer

    options = PrepareOptions(sources=("python",), val_fraction=0.02)
    if (out / "tokenizer" / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(out / "tokenizer")
    else:
        say("1. A tokenizer, trained on the source of the installed Python")
        texts = (document.text for document in read_documents("python", options))
        tokenizer = bpe.train(texts, BpeOptions(vocab_size=VOCABULARY))
        tokenizer.save(out / "tokenizer")
    say("2. A Dataset: the same text as tokens")
    dataset = prepare(options, tokenizer, out / "dataset")
    train, val = dataset.split("train"), dataset.split("val")
    assert train is not None
    assert val is not None
    say(f"   {train.n_tokens:,} tokens to train on, {val.n_tokens:,} held out (whole modules)")
    return dataset


def _planned(run: Run, dataset: Dataset, seconds: float, name: str, say: Callable[[str], None]) -> Recipe:
    """The recipe for this machine and time, or the saved one of a run that has started."""
    if (run / "recipe.toml").is_file():
        say("3. Resuming the existing run")
        return _with_fresh_time(run, load(run / "recipe.toml"), seconds)
    from gptworks.devices import choose_device
    from gptworks.host_memory import tune_allocator
    from gptworks.planning import time_budget
    from gptworks.train.peak import measure_flops
    from gptworks.train.precision import choose

    say("3. A model that fits this machine and the time")
    tune_allocator()
    device = choose_device(name)
    flops = measure_flops(choose("auto", device)) * time_budget.ASSUMED_MFU * seconds
    _, n_layer, n_embd, context, batch = max(size for size in SIZES if size[0] <= flops)
    recipe = dataclasses.replace(
        time_budget.recipe_for(time_budget.ModelSize(n_layer, n_embd, context), batch),
        data=dataset.path,
        out=run.path,
        eval=EvalOptions(every=0, tokens=time_budget.EVAL_TOKENS),
        save=SaveOptions(every=200),
        log=LogOptions(every=1 if device.type == "cpu" else 10),
    )
    steps = max(20, round(seconds / time_budget.measure(recipe, dataset, 2.0).step))
    return dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, max_steps=steps, max_hours=_hours(seconds)),
        eval=dataclasses.replace(recipe.eval, every=max(10, steps // 8)),
    )


def _with_fresh_time(run: Run, recipe: Recipe, seconds: float) -> Recipe:
    """The recipe with fresh time on top of what the run has used: the limit counts over all resumes."""
    from gptworks import runs

    so_far = run.newest_good()[0]
    if so_far and so_far.step == recipe.train.max_steps:
        return recipe
    state = json.loads((so_far.path / runs.STATE).read_text(encoding="utf-8")) if so_far else {"seconds": 0.0}
    hours = _hours(seconds, state["seconds"])
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, max_hours=hours))


def _hours(seconds: float, spent: float = 0.0) -> float:
    """`train.max_hours` for this much time."""
    return round((spent + 1.3 * seconds + GRACE) / 3600, 4)


def _show(run: Run, dataset: Dataset, name: str) -> None:
    """Print scores beside two baselines, plot the curve, and print samples."""
    from gptworks import files
    from gptworks.data.order import fixed_windows
    from gptworks.devices import choose_device
    from gptworks.model import checkpoint
    from gptworks.processes import World
    from gptworks.reports import plots
    from gptworks.train.evaluators import ValidationLoss, unigram_loss
    from gptworks.train.precision import choose

    measured = [row for row in files.read_rows(run / "metrics.jsonl") if "val_loss" in row]
    first, last = measured[0], measured[-1]
    train, val = dataset.split("train"), dataset.split("val")
    assert train is not None
    assert val is not None
    per_token = last["val_bpb"] / last["val_loss"]  # bits per byte of one nat per token, on these windows
    recipe = load(run / "recipe.toml")
    windows = fixed_windows(val, recipe.model.context or 0, recipe.eval.tokens)  # the same as during training
    unigram = unigram_loss(train, windows, dataset.vocab_size)
    plots.loss_curve(run, baselines={"unigram": unigram})
    reached = run.checkpoints()[-1]
    model, tokenizer = checkpoint.load(reached.path), dataset.tokenizer()
    loss, steps = last["val_loss"], recipe.train.max_steps
    if reached.step != last["step"]:  # stopped between two evaluations
        device = choose_device(name)
        lengths, numbers = tokenizer.byte_lengths(specials=False), choose(recipe.train.precision, device)
        measure = ValidationLoss.on_windows(
            windows, lengths, 1, recipe.train.ignore_first, numbers, World(0, 1, device)
        )
        loss = measure(model.to(device))["val_loss"]
        model.cpu()
    scores = {
        "untrained model": first["val_loss"],
        "token frequencies": unigram,
        "this model": loss,
    }
    print("\nOn held-out modules               nats per token   bits per byte")
    for name, nats in scores.items():
        print(f"  {name:<32}{nats:>10.3f} {nats * per_token:>15.3f}")
    if reached.step != steps:
        print(f"  (this model was trained for {reached.step:,} of {steps:,} steps)")
    print(
        f"  (the logarithm of {dataset.vocab_size} tokens is {math.log(dataset.vocab_size):.3f}; "
        f"the curve is {run / 'plots' / 'loss.png'})"
    )
    print("\nWhat it writes (prompt in front of ▸):")
    samples = _samples(model, tokenizer)
    result = {name: {"nats": nats, "bits_per_byte": nats * per_token} for name, nats in scores.items()}
    (run / "results").mkdir(exist_ok=True)
    files.write_json(
        run / "results" / "quickstart.json", {"split": "val", "scores": result, "samples": samples}
    )


def _samples(model: Model, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """Print continuations of some prompts, and return them."""
    from gptworks.generation.engine import GenerateSettings, generate

    samples = []
    for seed, prompt in enumerate(PROMPTS):
        settings = GenerateSettings(max_tokens=80, temperature=0.7, top_k=50, seed=seed)
        for sample in generate(model, tokenizer, prompt, settings):
            samples.append({"prompt": prompt, "text": sample.text})
            print("\n" + prompt + "▸" + sample.text.rstrip())
    return samples
