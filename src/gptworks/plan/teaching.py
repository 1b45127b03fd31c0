"""What fine-tuning a MODEL needs, on a device that need not be here: memory, by train/fit.py's model of it.

The longest examples decide, and none is looked at: they are taken to be as long as may be read. How long it takes
depends on how many there are; `finetune` says so as it begins.
"""

import functools
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from gptworks.model import classifier, sizing
from gptworks.model.build import skeleton
from gptworks.model.config import ModelConfig
from gptworks.plan import needs
from gptworks.plan.devices import Device
from gptworks.recipe import Recipe
from gptworks.train import classifying, finetuning, fit, instructing

Kind = Literal["classify", "instruct"]


def lesson(recipe: Recipe, config: ModelConfig, kind: Kind, device: Device) -> fit.FineTuning:
    """What fit.py asks of such a fine-tuning.

    Raises:
        ConfigError: longer examples than the model reads.
    """
    longest = finetuning.longest(getattr(recipe, kind).max_tokens, config)
    recipe = replace(recipe, train=replace(recipe.train, parallel=needs.strategy(recipe, device)))
    if recipe.train.dropout is not None:
        config = replace(config, dropout=recipe.train.dropout)

    @functools.cache
    def sketch(one: Recipe) -> nn.Module:
        body = skeleton(config)
        if kind == "instruct":
            return instructing.prepared(body, one, ())
        return classifying.prepared(classifier.on(body, ("yes", "no"), seed=0), one)

    return fit.FineTuning(
        recipe,
        config,
        sketch,
        lambda rows: (rows, longest),
        device.precision,
        vocabulary=kind == "instruct",
        processes=device.count,
    )


def facts(recipe: Recipe, config: ModelConfig, kind: Kind, device: Device) -> dict[str, Any]:
    """All of a plan, as `--json` prints it."""
    work = lesson(recipe, config, kind, device)
    batch, asked = getattr(recipe, kind).batch, fit.asked_for(recipe)
    share = -(-batch // device.count)
    room = None if device.memory is None else fit.SHARE * device.memory
    rows = fit.most_examples(work, share, room) if asked is None else min(share, asked)
    parts = work.estimate(rows)
    total = sum(parts.values())
    fits = room is None or total <= room
    model = work.sketch(work.recipe)
    return {
        "task": kind,
        "device": device.name,
        "devices": device.count,
        "precision": device.precision.name,
        "parallel": work.recipe.train.parallel,
        "parameters": sizing.parameters(config),
        "trained": sum(param.numel() for param in model.parameters() if param.requires_grad),
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "context": config.context,
        "batch": batch,
        "example_tokens": work.tokens(1),
        "micro_batch": rows,
        "micro_batches": -(-share // rows),
        "memory": parts,
        "memory_total": total,
        "memory_room": None if room is None else int(room),
        "fits": fits,
        "change": None if fits or room is None else fit.smaller(work, rows, room),
    }
