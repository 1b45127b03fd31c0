"""The best model that this machine can train in a given time, found in about a minute of measurements.

Each size of a ladder sees the tokens that it can process in the time, and model/scaling.py predicts its loss. The speed
of the best size is measured, and the choice is repeated with it. Optimizer, batch and schedule are those of `gptworks
quickstart`, which were tuned for held-out bits per byte at equal time on two cores.
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
from gptworks.devices import default_device
from gptworks.errors import DataError
from gptworks.host_memory import tune_allocator
from gptworks.model import scaling, sizing
from gptworks.model.config import ModelConfig, resolve_config
from gptworks.processes import World
from gptworks.recipe import (
    EvalOptions,
    LogOptions,
    ModelOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.runs import Run
from gptworks.train import parallel, saving
from gptworks.train.peak import measure_flops
from gptworks.train.precision import choose as choose_precision
from gptworks.train.pretraining import resolve_recipe
from gptworks.train.trainer import StepReport, Trainer


class ModelSize(NamedTuple):
    """A step of the ladder."""

    n_layer: int
    n_embd: int
    context: int


LADDER = tuple(
    ModelSize(*size)
    for size in (
        *((2, 64, 128), (4, 128, 128), (4, 192, 128), (6, 256, 256), (6, 384, 256), (8, 512, 256)),
        *((10, 640, 512), (12, 768, 1024), (16, 1024, 1024), (24, 1024, 1024), (24, 1536, 1024)),
        *((32, 2048, 1024), (40, 2560, 1024)),
    )
)

ASSUMED_MFU = 0.3
"""Until something is measured."""

MAX_PROBES = 3
"""Sizes to measure at most."""

PROBE_SECONDS, FINAL_PROBE_SECONDS = 6.0, 20.0
"""Time to measure each size, and the chosen one."""

EVAL_TOKENS = 40_000

OVERHEAD_SECONDS = 6.0
"""Time a run takes to open its Dataset and to draw its curve and page."""

MARGIN = 1.03
"""`train.max_hours` of the recipe over the time asked for, in case the machine becomes slower."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds that the parts of a run take on this machine."""

    step: float
    evaluation: float
    checkpoint: float
    micro_batch: int


@dataclass(frozen=True)
class Suggestion:
    """The chosen recipe, and the measurements behind it."""

    recipe: Recipe
    config: ModelConfig
    times: StepTimes
    steps: int
    predicted_loss: float
    """By a published fit on other data: good for comparing sizes, not as a forecast."""
    probed: tuple[tuple[ModelSize, float], ...]
    """The measured sizes with their tokens/s."""


def recipe_for(size: ModelSize, batch_tokens: int) -> Recipe:
    """A recipe for short runs: a modern model, Muon, a constant learning rate and a long cooldown; one step."""
    return Recipe(
        model=ModelOptions(
            family="modern",
            n_layer=size.n_layer,
            n_head=size.n_embd // 64,
            n_embd=size.n_embd,
            context=size.context,
            tied=True,
            zero_init=True,
        ),
        train=TrainOptions(max_steps=1, batch_tokens=batch_tokens),
        optim=OptimOptions(
            name="muon",
            lr=1 / size.n_embd,
            weight_decay=0.0,
            warmup_steps=20,
            schedule="wsd",
            cooldown=0.6,
            final_lr=0.0,
        ),
    )


def measure(recipe: Recipe, dataset: Dataset, seconds: float, *, everything: bool = False) -> StepTimes:
    """Train a throwaway model for `seconds` and average its steps after the first two.

    With `everything`, an evaluation and a checkpoint are timed as well.
    """
    world = World(0, 1, default_device())
    recipe = replace(recipe, train=replace(recipe.train, max_steps=10_000))
    setup = resolve_recipe(recipe, dataset, world)
    model = parallel.prepare(setup.model, recipe.train, world)
    trainer = Trainer(model, setup.task, setup.plan, recipe.optim, world)
    times = [time.perf_counter()]

    def enough(report: StepReport) -> bool:
        report.loss.item()  # wait for it
        times.append(time.perf_counter())
        elapsed = times[-1] - times[0]
        return (len(times) > 8 and elapsed > seconds) or (len(times) > 4 and elapsed > 2 * seconds)

    trainer.fit(enough)
    durations = [later - earlier for earlier, later in itertools.pairwise(times[2:])]
    step = sum(durations) / len(durations)
    if not everything:
        return StepTimes(step, 0.0, 0.0, setup.plan.micro_batch)
    start = time.perf_counter()
    if setup.evaluate is not None:
        setup.evaluate(trainer.model)
    evaluation = time.perf_counter() - start
    with tempfile.TemporaryDirectory(dir=dataset.path.parent, prefix=".plan-") as folder:
        state = saving.RunState(
            step=1,
            epoch=0.0,
            tokens=0,
            seconds=0.0,
            best_val_loss=None,
            val_loss=None,
            kept=False,
            non_finite=0,
        )
        start = time.perf_counter()
        saving.save(Run(folder), trainer, setup.tokenizer, state)
        checkpoint = time.perf_counter() - start
    return StepTimes(step, evaluation, checkpoint, setup.plan.micro_batch)


def batch_for(tokens: float, context: int) -> int:
    """Tokens per step for a run of `tokens`: a power of two of rows, growing with tokens^0.63.

    The curve passes through quickstart's batch (2,048 at 1.6 M tokens) and GPT-2's (524,288 at 10 B).
    """
    target = 2048 * (tokens / 1.6e6) ** 0.63
    rows = 2 ** round(math.log2(max(1.0, target / context)))
    return int(context * rows)


def choose(dataset: Dataset, seconds: float, out: Path) -> Suggestion:
    """The size, tokens, batch and schedule for this machine and time. Measures for about a minute.

    Raises:
        DataError: the Dataset is too small for any size.
    """
    tune_allocator()
    split = dataset.split("train")
    sizes = [size for size in LADDER if split is not None and size.context * 8 <= split.n_tokens]
    if split is None or not sizes:
        raise DataError(f"{dataset.path} has too little text to train on; prepare more")
    budget = TimeBudget(dataset.vocab_size, split.n_tokens, seconds)
    rates: dict[ModelSize, float] = {}
    assumed = ASSUMED_MFU * measure_flops(choose_precision("auto", default_device()))
    best = budget.best(sizes, lambda _: assumed)
    for _ in range(MAX_PROBES):
        if best in rates:
            break
        rates[best] = _probe(best, dataset, budget, rates or {best: assumed})
        best = budget.best(sizes, lambda size: _nearest_rate(size, rates))
    if best not in rates:
        best = budget.best(list(rates), rates.__getitem__)
    recipe = recipe_for(best, batch_for(budget.tokens(best, rates[best]), best.context))
    recipe = replace(recipe, data=dataset.path, out=out, eval=EvalOptions(every=0, tokens=EVAL_TOKENS))
    recipe, times = with_micro_batch(recipe, dataset, budget.flops(best) / rates[best])
    recipe, steps = with_steps(recipe, times, seconds)
    tokens = scaling.effective_tokens(steps * float(recipe.train.batch_tokens or 0), split.n_tokens)
    config = budget.config(best)
    probed = tuple((size, rate / budget.flops(size)) for size, rate in rates.items())
    loss = float(scaling.loss(np.array(float(sizing.parameters(config))), np.array(tokens)))
    return Suggestion(recipe, config, times, steps, loss, probed)


@dataclass(frozen=True)
class TimeBudget:
    """What models of different sizes can reach in a time."""

    vocab_size: int
    unique_tokens: int
    """Tokens in the train split."""
    seconds: float

    def config(self, size: ModelSize) -> ModelConfig:
        return resolve_config(recipe_for(size, size.context).model, self.vocab_size)

    def flops(self, size: ModelSize) -> int:
        """FLOPs per token."""
        return sizing.flops_per_token(self.config(size))

    def tokens(self, size: ModelSize, rate: float) -> float:
        """Tokens that a model processes at `rate` FLOP/s."""
        return self.seconds * rate / self.flops(size)

    def best(self, sizes: Sequence[ModelSize], rate: Callable[[ModelSize], float]) -> ModelSize:
        """The size with the lowest predicted loss."""

        def predicted_loss(size: ModelSize) -> float:
            tokens = max(1.0, scaling.effective_tokens(self.tokens(size, rate(size)), self.unique_tokens))
            parameters = float(sizing.parameters(self.config(size)))
            return float(scaling.loss(np.array(parameters), np.array(tokens)))

        return min(sizes, key=predicted_loss)


def _nearest_rate(size: ModelSize, rates: Mapping[ModelSize, float]) -> float:
    """FLOP/s of the measured size with the nearest width."""
    return rates[min(rates, key=lambda known: abs(math.log(known.n_embd / size.n_embd)))]


def _probe(size: ModelSize, dataset: Dataset, budget: TimeBudget, rates: Mapping[ModelSize, float]) -> float:
    """FLOP/s that a size reaches, measured for a few seconds."""
    rate = _nearest_rate(size, rates)
    batch = batch_for(budget.tokens(size, rate), size.context)
    recipe = replace(recipe_for(size, batch), data=dataset.path)
    recipe = _with_short_steps(recipe, size.context, budget.flops(size) / rate, PROBE_SECONDS / 8)
    return (
        (recipe.train.batch_tokens or 0) * budget.flops(size) / measure(recipe, dataset, PROBE_SECONDS).step
    )


def _with_short_steps(recipe: Recipe, context: int, seconds_per_token: float, seconds: float) -> Recipe:
    """The recipe with steps of at most `seconds`, for measuring."""
    batch = recipe.train.batch_tokens or context
    limit = max(1, int(seconds / seconds_per_token / context)) * context
    return replace(recipe, train=replace(recipe.train, batch_tokens=min(batch, limit)))


def with_micro_batch(recipe: Recipe, dataset: Dataset, seconds_per_token: float) -> tuple[Recipe, StepTimes]:
    """The recipe with its micro-batch resolved, and its times from a longer measurement."""
    batch = recipe.train.batch_tokens or 0
    short = _with_short_steps(recipe, recipe.model.context or 1, seconds_per_token, FINAL_PROBE_SECONDS / 8)
    times = measure(short, dataset, FINAL_PROBE_SECONDS, everything=True)
    times = replace(times, step=times.step * batch / (short.train.batch_tokens or batch))
    return replace(recipe, train=replace(recipe.train, micro_batch=times.micro_batch)), times


def with_steps(recipe: Recipe, times: StepTimes, seconds: float) -> tuple[Recipe, int]:
    """The recipe with as many steps, evaluations and checkpoints as fit into `seconds`."""
    left = seconds - OVERHEAD_SECONDS - 2 * times.evaluation - times.checkpoint
    evaluations = min(20, int(0.05 * seconds / max(1e-3, times.evaluation)))  # at most 5 % of the time
    saves = min(int(seconds / 900), int(0.02 * seconds / max(1e-3, times.checkpoint)))
    left -= evaluations * times.evaluation + saves * times.checkpoint
    steps = max(20, round(left / times.step))
    return replace(
        recipe,
        train=replace(recipe.train, max_steps=steps, max_hours=MARGIN * seconds / 3600),
        optim=replace(recipe.optim, warmup_steps=min(100, max(5, steps // 40))),
        eval=replace(recipe.eval, every=-(-steps // (evaluations + 1))),
        save=SaveOptions(every=-(-steps // (saves + 1))),
        log=LogOptions(every=1 if default_device().type == "cpu" else 10),
    ), steps
