"""The best model that can be trained here in a time: sizes are measured for less than a minute, and one is chosen.

Each size of a ladder is given the tokens that it would see in the time, and taken for the loss that model/scaling.py
predicts; speed is measured where the choice is, and the choice made again with it. Optimizer, batch and schedule are
those of `gptworks quickstart`, which were chosen by held-out bits per byte after equal time on two cores.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptworks.data.dataset import Dataset
from gptworks.errors import DataError
from gptworks.model import scaling, sizing
from gptworks.model.config import ModelConfig, resolve
from gptworks.recipe import (
    EvalOptions,
    LogOptions,
    ModelOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.train import parallel, saving
from gptworks.train.peak import measured_flops
from gptworks.train.precision import choose as choose_precision
from gptworks.train.pretraining import settle
from gptworks.train.trainer import StepReport, Trainer
from gptworks.world import World, default_device, tune_allocator


class Rung(NamedTuple):
    """A size."""

    layers: int
    width: int
    context: int


LADDER = tuple(
    Rung(*size)
    for size in (
        *((2, 64, 128), (4, 128, 128), (4, 192, 128), (6, 256, 256), (6, 384, 256), (8, 512, 256)),
        *((10, 640, 512), (12, 768, 1024), (16, 1024, 1024), (24, 1024, 1024), (24, 1536, 1024)),
        *((32, 2048, 1024), (40, 2560, 1024)),
    )
)

GUESS = 0.3
"""Of the device's peak, until something is measured."""

LOOKS, LOOK, LONGER_LOOK = 3, 6.0, 20.0
"""Sizes that are measured at most, for so many seconds each; and seconds for the one that is chosen."""

EVAL_TOKENS = 40_000

BEFORE_AND_AFTER = 6.0
"""Seconds that a run takes to open its Dataset and draw its curve and page."""

MARGIN = 1.03
"""`train.max_hours` of what is written: a machine that gets busy must not keep a person waiting for ever."""


@dataclass(frozen=True)
class Pace:
    """How long the parts of a run take here, in seconds."""

    step: float
    evaluation: float
    checkpoint: float
    micro_batch: int


@dataclass(frozen=True)
class Choice:
    """A recipe, and what was seen on the way to it."""

    recipe: Recipe
    config: ModelConfig
    pace: Pace
    steps: int
    predicted_loss: float
    """By other people's fit: for comparing sizes, no promise."""
    looked_at: tuple[tuple[Rung, float], ...]
    """Tokens/s of what was measured."""


def recipe_of(rung: Rung, batch_tokens: int) -> Recipe:
    """Small, short and hot: a modern model, Muon, a constant rate and a long cool-down. How long is left open."""
    return Recipe(
        model=ModelOptions(
            family="modern",
            n_layer=rung.layers,
            n_head=rung.width // 64,
            n_embd=rung.width,
            context=rung.context,
            tied=True,
            zero_init=True,
        ),
        train=TrainOptions(max_steps=1, batch_tokens=batch_tokens),
        optim=OptimOptions(
            kind="muon",
            lr=1 / rung.width,
            weight_decay=0.0,
            warmup_steps=20,
            schedule="wsd",
            cooldown=0.6,
            final_lr=0.0,
        ),
    )


def measure(recipe: Recipe, dataset: Dataset, seconds: float, *, whole: bool = False) -> Pace:
    """Train a throw-away model for `seconds`, two steps to warm up among them; the mean of the others.

    With `whole`, an evaluation and a checkpoint are timed as well.
    """
    w = World(0, 1, default_device())
    recipe = replace(recipe, train=replace(recipe.train, max_steps=10_000))
    work = settle(recipe, dataset, w)
    trainer = Trainer(parallel.prepare(work.model, recipe.train, w), work.task, work.plan, recipe.optim, w)
    marks = [time.perf_counter()]

    def after(report: StepReport) -> bool:
        report.loss.item()  # wait for it
        marks.append(time.perf_counter())
        spent = marks[-1] - marks[0]
        return (len(marks) > 8 and spent > seconds) or (len(marks) > 4 and spent > 2 * seconds)

    trainer.fit(after)
    laps = [later - sooner for sooner, later in itertools.pairwise(marks[2:])]
    step = sum(laps) / len(laps)
    if not whole:
        return Pace(step, 0.0, 0.0, work.plan.micro_batch)
    began = time.perf_counter()
    if work.evaluate is not None:
        work.evaluate(trainer.model)
    evaluated = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=dataset.path.parent, prefix=".plan-") as folder:
        progress = saving.Progress(
            step=1,
            epoch=0.0,
            tokens=0,
            seconds=0.0,
            best_val_loss=None,
            val_loss=None,
            kept=False,
            non_finite=0,
        )
        saved = time.perf_counter()
        saving.save(Path(folder), trainer, work.tokenizer, progress)
        saved = time.perf_counter() - saved
    return Pace(step, evaluated - began, saved, work.plan.micro_batch)


def batch_for(tokens: float, context: int) -> int:
    """Tokens of a step for a run of so many: a power of two of rows, growing as tokens^0.63.

    The line goes through quickstart's batch (2,048 at 1.6 M tokens) and GPT-2's (524,288 at 10 B).
    """
    wanted = 2048 * (tokens / 1.6e6) ** 0.63
    rows = 2 ** round(math.log2(max(1.0, wanted / context)))
    return int(context * rows)


def choose(dataset: Dataset, seconds: float, out: Path) -> Choice:
    """The size, tokens, batch and schedule for so much time on this machine, after about a minute of looking.

    Raises:
        DataError: the Dataset has too little text for any.
    """
    tune_allocator()
    split = dataset.split("train")
    rungs = [rung for rung in LADDER if split is not None and rung.context * 8 <= split.n_tokens]
    if split is None or not rungs:
        raise DataError(f"{dataset.path} has too little text to train on: give more")
    hopes = Hopes(dataset.vocab_size, split.n_tokens, seconds)
    rates: dict[Rung, float] = {}
    guess = GUESS * measured_flops(choose_precision("auto", default_device()))
    best = hopes.best(rungs, lambda _: guess)
    for _ in range(LOOKS):
        if best in rates:
            break
        rates[best] = _rate(best, dataset, hopes, rates or {best: guess})
        best = hopes.best(rungs, lambda rung: _nearest(rung, rates))
    if best not in rates:
        best = hopes.best(list(rates), rates.__getitem__)
    recipe = recipe_of(best, batch_for(hopes.tokens(best, rates[best]), best.context))
    recipe = replace(recipe, data=dataset.path, out=out, eval=EvalOptions(every=0, tokens=EVAL_TOKENS))
    recipe, pace = paced(recipe, dataset, hopes.flops(best) / rates[best])
    recipe, steps = timed(recipe, pace, seconds)
    seen = scaling.worth(steps * float(recipe.train.batch_tokens or 0), split.n_tokens)
    config = hopes.config(best)
    looked = tuple((rung, rate / hopes.flops(rung)) for rung, rate in rates.items())
    expected = float(scaling.loss(np.array(float(sizing.parameters(config))), np.array(seen)))
    return Choice(recipe, config, pace, steps, expected, looked)


@dataclass(frozen=True)
class Hopes:
    """What a time may come to with models of different sizes."""

    vocab_size: int
    unique: int
    """Tokens to train on that are different."""
    seconds: float

    def config(self, rung: Rung) -> ModelConfig:
        return resolve(recipe_of(rung, rung.context).model, self.vocab_size)

    def flops(self, rung: Rung) -> int:
        """Of a token."""
        return sizing.flops_per_token(self.config(rung))

    def tokens(self, rung: Rung, rate: float) -> float:
        """How many go through at `rate` FLOP/s."""
        return self.seconds * rate / self.flops(rung)

    def best(self, rungs: Sequence[Rung], rate: Callable[[Rung], float]) -> Rung:
        """The rung of the least predicted loss."""

        def predicted(rung: Rung) -> float:
            seen = max(1.0, scaling.worth(self.tokens(rung, rate(rung)), self.unique))
            size = float(sizing.parameters(self.config(rung)))
            return float(scaling.loss(np.array(size), np.array(seen)))

        return min(rungs, key=predicted)


def _nearest(rung: Rung, rates: Mapping[Rung, float]) -> float:
    """FLOP/s of the measured rung that is nearest in width."""
    return rates[min(rates, key=lambda known: abs(math.log(known.width / rung.width)))]


def _rate(rung: Rung, dataset: Dataset, hopes: Hopes, rates: Mapping[Rung, float]) -> float:
    """FLOP/s that a rung reaches, looked at for a few seconds."""
    rate = _nearest(rung, rates)
    batch = batch_for(hopes.tokens(rung, rate), rung.context)
    recipe = replace(recipe_of(rung, batch), data=dataset.path)
    recipe = _small_enough(recipe, rung.context, hopes.flops(rung) / rate, LOOK / 8)
    return (recipe.train.batch_tokens or 0) * hopes.flops(rung) / measure(recipe, dataset, LOOK).step


def _small_enough(recipe: Recipe, context: int, seconds_per_token: float, seconds: float) -> Recipe:
    """The recipe with a step of at most so many seconds, for measuring."""
    batch = recipe.train.batch_tokens or context
    most = max(1, int(seconds / seconds_per_token / context)) * context
    return replace(recipe, train=replace(recipe.train, batch_tokens=min(batch, most)))


def paced(recipe: Recipe, dataset: Dataset, seconds_per_token: float) -> tuple[Recipe, Pace]:
    """The recipe with its micro-batch settled, and how long its parts take: looked at longer, as it will be run."""
    batch = recipe.train.batch_tokens or 0
    small = _small_enough(recipe, recipe.model.context or 1, seconds_per_token, LONGER_LOOK / 8)
    pace = measure(small, dataset, LONGER_LOOK, whole=True)
    pace = replace(pace, step=pace.step * batch / (small.train.batch_tokens or batch))
    return replace(recipe, train=replace(recipe.train, micro_batch=pace.micro_batch)), pace


def timed(recipe: Recipe, pace: Pace, seconds: float) -> tuple[Recipe, int]:
    """The recipe with the steps, evaluations and checkpoints that end after `seconds`."""
    left = seconds - BEFORE_AND_AFTER - 2 * pace.evaluation - pace.checkpoint
    evaluations = min(20, int(0.05 * seconds / max(1e-3, pace.evaluation)))  # a twentieth of the time at most
    saves = min(int(seconds / 900), int(0.02 * seconds / max(1e-3, pace.checkpoint)))
    left -= evaluations * pace.evaluation + saves * pace.checkpoint
    steps = max(20, round(left / pace.step))
    schedule = replace(recipe.optim, warmup_steps=min(100, max(5, steps // 40)))
    return replace(
        recipe,
        train=replace(recipe.train, max_steps=steps, max_hours=MARGIN * seconds / 3600),
        optim=schedule,
        eval=replace(recipe.eval, every=-(-steps // (evaluations + 1))),
        save=SaveOptions(every=-(-steps // (saves + 1))),
        log=LogOptions(every=1 if default_device().type == "cpu" else 10),
    ), steps
