"""`gptworks quickstart`: the whole main line in a few minutes, with nothing to download."""

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
    EvalOptions,
    LogOptions,
    PrepareOptions,
    Recipe,
    SaveOptions,
)
from gptworks.recipefile import load

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
"""(FLOPs the time affords, layers, width, context, tokens a step): small enough to see the corpus more than in part."""

GRACE = 20.0
"""Seconds past 1.3 times the time asked for: a machine that gets busy must not keep a person waiting for ever."""


def quickstart(
    *,
    out: Annotated[Path, Parameter(help="Folder for the tokenizer, the Dataset and the run.")] = Path(
        "gptworks-quickstart"
    ),
    minutes: Annotated[PositiveFloat, Parameter(help="About how long to train.")] = 3.0,
) -> None:
    """Train a small GPT on the text of the installed Python, and see what it writes.

    Nothing is downloaded. Run it again to go on where it stopped.
    """
    from gptworks.commands.pretrain import train_run
    from gptworks.commands.start import finish
    from gptworks.report import terminal

    say, began = terminal.say, time.monotonic()
    dataset = _dataset(out, say)
    run = out / "run"
    recipe = _planned(run, dataset, minutes * 60, say)
    stopped = train_run(recipe, resume=True, again="the same command again")
    if stopped != "train.max_hours":
        finish(stopped)
    _show(run, dataset)
    if stopped:
        print("\nThe time was up before the last step: the same command again goes on.")
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
    from gptworks.data.documents import documents
    from gptworks.data.prepare import prepare
    from gptworks.text import bpe
    from gptworks.text.tokenizer import Tokenizer

    options = PrepareOptions(sources=("python",), val_fraction=0.02)
    if (out / "tokenizer" / "tokenizer.json").is_file():
        tokenizer = Tokenizer.load(out / "tokenizer")
    else:
        say("1. A tokenizer, trained on the source of the installed Python")
        texts = (document.text for document in documents("python", options))
        tokenizer = bpe.train(texts, BpeOptions(vocab_size=VOCABULARY))
        tokenizer.save(out / "tokenizer")
    say("2. A Dataset: the same text as tokens")
    dataset = prepare(options, tokenizer, out / "dataset")
    train, val = dataset.split("train"), dataset.split("val")
    assert train is not None
    assert val is not None
    say(f"   {train.n_tokens:,} tokens to train on, {val.n_tokens:,} held out (whole modules)")
    return dataset


def _planned(run: Path, dataset: Dataset, seconds: float, say: Callable[[str], None]) -> Recipe:
    """The recipe for this machine and time; the saved one if the run has begun."""
    if (run / "recipe.toml").is_file():
        say("3. Going on with the run that is there")
        return _in_fresh_time(run, load(run / "recipe.toml"), seconds)
    from gptworks.plan import hours
    from gptworks.train.peak import measured_flops
    from gptworks.train.precision import choose
    from gptworks.world import default_device, tune_allocator

    say("3. A model that fits this machine and the time")
    tune_allocator()
    device = default_device()
    flops = measured_flops(choose("auto", device)) * hours.GUESS * seconds
    _, n_layer, n_embd, context, batch = max(size for size in SIZES if size[0] <= flops)
    recipe = dataclasses.replace(
        hours.recipe_of(hours.Rung(n_layer, n_embd, context), batch),
        data=dataset.path,
        out=run,
        eval=EvalOptions(every=0, tokens=hours.EVAL_TOKENS),
        save=SaveOptions(every=200),
        log=LogOptions(every=1 if device.type == "cpu" else 10),
    )
    steps = max(20, round(seconds / hours.measure(recipe, dataset, 2.0).step))
    return dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, max_steps=steps, max_hours=_hours(seconds)),
        eval=dataclasses.replace(recipe.eval, every=max(10, steps // 8)),
    )


def _in_fresh_time(run: Path, recipe: Recipe, seconds: float) -> Recipe:
    """The recipe with the time asked for now on top of what the run has taken: a limit counts over all resumes."""
    from gptworks import runs

    so_far = runs.newest_good(run)[0]
    if so_far and so_far.step == recipe.train.max_steps:
        return recipe
    state = json.loads((so_far.path / runs.STATE).read_text(encoding="utf-8")) if so_far else {"seconds": 0.0}
    hours = _hours(seconds, state["seconds"])
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, max_hours=hours))


def _hours(seconds: float, spent: float = 0.0) -> float:
    """`train.max_hours` where so much time is asked for."""
    return round((spent + 1.3 * seconds + GRACE) / 3600, 4)


def _show(run: Path, dataset: Dataset) -> None:
    """Scores beside two honest baselines, the curve, and samples."""
    from gptworks import runs
    from gptworks.data.order import fixed_windows
    from gptworks.model import checkpoint
    from gptworks.report import plots
    from gptworks.train.evaluators import ValidationLoss, unigram_loss
    from gptworks.train.precision import choose
    from gptworks.train.pretraining import token_bytes
    from gptworks.world import World, default_device

    measured = [row for row in runs.read_rows(run / "metrics.jsonl") if "val_loss" in row]
    first, last = measured[0], measured[-1]
    train, val = dataset.split("train"), dataset.split("val")
    assert train is not None
    assert val is not None
    per_token = last["val_bpb"] / last["val_loss"]  # bits per byte of one nat per token, on these windows
    recipe = load(run / "recipe.toml")
    windows = fixed_windows(
        val, recipe.model.context or 0, recipe.eval.tokens
    )  # those the run was measured on
    unigram = unigram_loss(train, windows, dataset.vocab_size)
    plots.loss_curve(run, baselines={"unigram": unigram})
    reached = runs.checkpoints(run)[-1]
    model, tokenizer = checkpoint.load(reached.path), dataset.tokenizer()
    loss, steps = last["val_loss"], recipe.train.max_steps
    if reached.step != last["step"]:  # stopped between two evaluations
        device = default_device()
        lengths, numbers = token_bytes(tokenizer), choose(recipe.train.precision, device)
        measure = ValidationLoss(windows, lengths, 1, recipe.train.skip_first, numbers, World(0, 1, device))
        loss = measure(model.to(device))["val_loss"]
        model.cpu()
    scores = {
        "untrained model": first["val_loss"],
        "how often each token occurs": unigram,
        "this model": loss,
    }
    print("\nOn held-out modules               nats per token   bits per byte")
    for name, nats in scores.items():
        print(f"  {name:<32}{nats:>10.3f} {nats * per_token:>15.3f}")
    if reached.step != steps:
        print(f"  (this model has learned for {reached.step:,} of {steps:,} steps)")
    print(
        f"  (the logarithm of {dataset.vocab_size} tokens is {math.log(dataset.vocab_size):.3f}; "
        f"the curve is {run / 'plots' / 'loss.png'})"
    )
    print("\nWhat it writes (prompt in front of ▸):")
    samples = _samples(model, tokenizer)
    result = {name: {"nats": nats, "bits_per_byte": nats * per_token} for name, nats in scores.items()}
    (run / "results").mkdir(exist_ok=True)
    runs.write_json(
        run / "results" / "quickstart.json", {"split": "val", "scores": result, "samples": samples}
    )


def _samples(model: Model, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """Print what the model makes of some beginnings, and return it."""
    from gptworks.generate.engine import GenerateSettings, generate

    samples = []
    for seed, prompt in enumerate(PROMPTS):
        settings = GenerateSettings(max_tokens=80, temperature=0.7, top_k=50, seed=seed)
        for sample in generate(model, tokenizer, prompt, settings):
            samples.append({"prompt": prompt, "text": sample.text})
            print("\n" + prompt + "▸" + sample.text.rstrip())
    return samples
