"""The memory that fine-tuning a MODEL needs, on hardware that need not be here, by the estimate in train/fit.py.

The longest examples decide. The plan reads no data and assumes that they have the maximum length. How long fine-tuning
takes depends on the number of examples, so `finetune` says it when it starts.
"""

import functools
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from gptworks.model import classifier
from gptworks.model.build import skeleton
from gptworks.model.config import ModelConfig
from gptworks.planning import pretraining
from gptworks.planning.hardware import Hardware
from gptworks.recipe import Recipe
from gptworks.train import classifying, fit, instructing, lengths

Kind = Literal["classify", "instruct"]


def workload(recipe: Recipe, config: ModelConfig, kind: Kind, hardware: Hardware) -> fit.FinetuneMemory:
    """The fine-tuning as train/fit.py describes it.

    Raises:
        ConfigError: examples may be longer than the model's context.
    """
    longest = lengths.longest_example(getattr(recipe, kind).max_tokens, config)
    recipe = pretraining.with_strategy(recipe, pretraining.strategy(recipe, hardware))
    if recipe.train.dropout is not None:
        config = replace(config, dropout=recipe.train.dropout)

    @functools.cache
    def build(recipe: Recipe) -> nn.Module:
        body = skeleton(config)
        if kind == "instruct":
            return instructing.prepared(body, recipe, ())
        return classifying.prepared(classifier.with_head(body, ("yes", "no"), seed=0), recipe)

    return fit.FinetuneMemory(
        recipe,
        config,
        build,
        lambda rows: (rows, longest),
        hardware.precision,
        vocabulary=kind == "instruct",
        processes=hardware.count,
    )


def facts(recipe: Recipe, config: ModelConfig, kind: Kind, hardware: Hardware) -> dict[str, Any]:
    """The plan, as `--json` prints it."""
    work = workload(recipe, config, kind, hardware)
    batch, micro_batch = getattr(recipe, kind).batch_examples, fit.requested_micro_batch(recipe)
    share = -(-batch // hardware.count)
    room = None if hardware.memory is None else fit.MAX_FILL * hardware.memory
    rows = (
        fit.largest_finetune_micro_batch(work, share, room)
        if micro_batch is None
        else min(share, micro_batch)
    )
    parts = work.estimate(rows)
    total = sum(parts.values())
    fits = room is None or total <= room
    model = work.sketch(work.recipe)
    common = pretraining.common_facts(config, hardware, str(work.recipe.train.parallel))
    return (
        {"task": kind}
        | common
        | {
            "trained": sum(param.numel() for param in model.parameters() if param.requires_grad),
            "batch": batch,
            "example_tokens": work.tokens(1),
            "micro_batch": rows,
            "micro_batches": -(-share // rows),
            "memory": parts,
            "memory_total": total,
            "memory_room": None if room is None else int(room),
            "fits": fits,
            "change": None if fits or room is None else fit.suggest_smaller(work, rows, room),
        }
    )
