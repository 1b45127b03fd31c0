"""The processes of test_distributed.py: `python -m tests.train.workers FOLDER CASE...`, under torchrun or alone.

A case is KIND-OPTIMIZER[-OPTION...]; its losses, gradient norms and final weights are written to FOLDER.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.processes import exit_process, world
from gptworks.recipe import ModelOptions, OptimOptions, TrainOptions
from gptworks.train import parallel
from gptworks.train.precision import Precision
from gptworks.train.tasks import language_batch, token_loss
from gptworks.train.trainer import Plan, Trainer

STEPS, CONTEXT, VOCABULARY = 6, 12, 50


class RandomText:
    """Rows of random ids; a step has 7, which no number of processes divides."""

    def rows(self, step):
        return np.arange(7 * step, 7 * step + 7)

    def batch(self, rows):
        ids = [np.random.default_rng(row).integers(0, VOCABULARY, CONTEXT + 1) for row in rows]
        batch = language_batch(torch.from_numpy(np.stack(ids)))
        for row, targets in zip(rows, batch["targets"], strict=True):
            targets[: row % 5] = -100  # so that processes have unequal numbers of targets
        return batch

    def loss(self, model, batch):
        return token_loss(model, batch)


class Poisoned(RandomText):
    """RandomText, except that one step has a non-finite gradient on one process."""

    def __init__(self, rank):
        self.rank = rank

    def batch(self, rows):
        batch = super().batch(rows)
        return batch | {"poison": torch.tensor(float("inf") if 14 <= rows[0] < 21 and 16 in rows else 1.0)}

    def loss(self, model, batch):
        return super().loss(model, batch) * batch["poison"]


def trainer_of(case, where):
    kind, optimizer, *more = case.split("-")
    options = ModelOptions(
        family="modern" if "modern" in more else "gpt2",
        n_layer=2,
        n_head=2,
        n_embd=20,
        context=CONTEXT,
        tied="untied" not in more,
    )
    model = build(resolve_config(options, VOCABULARY), seed=1)
    train = TrainOptions(
        parallel=kind,
        checkpoint_activations="checkpointed" in more,
        compile="on" if "compiled" in more else "off",
        reshard_after_forward="kept" not in more,
        comm_dtype="precision" if "narrow" in more else "fp32",
    )
    precision = Precision("bf16" if "bf16" in more else "fp32", where.device)
    plan = Plan(STEPS, 2, 0, precision)
    model = parallel.prepare(
        model, dataclasses.replace(train, parallel="auto") if where.size == 1 else train, where, precision
    )
    task = Poisoned(where.rank) if "poisoned" in more else RandomText()
    optim = OptimOptions(name=optimizer, lr=1e-2, grad_clip=0.5, weight_decay=0.1, schedule="constant")
    return Trainer(model, task, plan, optim, where)


def main(folder, *cases):
    with world() as where:
        for case in cases:
            trainer = trainer_of(case, where)
            reports = []
            trainer.fit(lambda report, reports=reports: bool(reports.append(report)))
            with parallel.full_model(trainer.model) as plain:
                found = {name: param.detach().clone() for name, param in plain.named_parameters()}
            found["loss"] = torch.stack([report.loss for report in reports])
            found["norm"] = torch.stack([report.grad_norm for report in reports])
            found["tokens"] = torch.stack([report.tokens for report in reports])
            found["skipped"] = torch.stack([report.skipped for report in reports])
            save_file(found, Path(folder) / f"{case}-{where.rank}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
    exit_process(0)
