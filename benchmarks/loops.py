"""The training loops that benchmarks/train.py compares: gptworks, transformers with and without its Trainer, others.

Each loop trains on the same (B, T + 1) ids in every step, marks the start of each forward pass and the end of each
update on the clock, and stops when the clock is over. All use random weights, no dropout, the fastest dtype of the
hardware, fused AdamW and gradient clipping.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from clock import Clock, Enough
from torch import Tensor, nn

from gptworks.host_memory import tune_allocator
from gptworks.model.build import build
from gptworks.model.config import ModelConfig, resolve_config
from gptworks.processes import World
from gptworks.recipe import (
    EvalOptions,
    ModelOptions,
    OptimOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)
from gptworks.train import parallel, precision
from gptworks.train.session import Session, TrainingSchedule
from gptworks.train.tasks import language_batch, token_loss
from gptworks.train.trainer import Batch, Plan, Trainer

Size = dict[str, Any]
ADAMW = {"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}


def config_of(size: Size) -> ModelConfig:
    """The model config of a size."""
    shape = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    return resolve_config(ModelOptions(**shape), size["vocab_size"])


class SameRows:
    """A task with the same rows in every step."""

    def __init__(self, ids: Tensor, clock: Clock) -> None:
        self.ids, self.clock = ids, clock

    def rows(self, step: int) -> np.ndarray:  # noqa: ARG002 - a Task's signature
        return np.arange(len(self.ids))

    def batch(self, rows: Sequence[int]) -> Batch:
        return language_batch(self.ids[list(rows)])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.clock.over:
            raise Enough
        self.clock.start()
        return token_loss(model, batch)

    def sources(self, row: int) -> list[str]:
        return [f"row {row}"]


def our_trainer(size: Size, ids: Tensor, clock: Clock, *, compiled: bool) -> Trainer:
    """A Trainer like that of `gptworks pretrain`, which marks its steps on the clock."""
    tune_allocator()
    world = World(0, 1, clock.device)
    options = TrainOptions(compile="on" if compiled else "off")
    model = parallel.prepare(build(config_of(size), seed=0), options, world)
    plan = Plan(10**6, len(ids), seed=0, precision=precision.choose("auto", clock.device))
    trainer = Trainer(model, SameRows(ids, clock), plan, OptimOptions(**ADAMW), world)
    trainer.optimizers[-1].register_step_post_hook(lambda *_: clock.end())
    return trainer


class NoDisplay:
    """A display that shows nothing."""

    def step(self, row: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


def gptworks(size: Size, ids: Tensor, clock: Clock, *, compiled: bool) -> None:
    """The full loop of a run: prefetching, steps, logging and metrics on disk, without checkpoints."""
    schedule = TrainingSchedule(
        tokenizer=cast(Any, None),  # only needed for checkpoints
        steps_per_epoch=10**6,
        flops_per_token=1,
        peak_flops=1.0,
    )
    trainer = our_trainer(size, ids, clock, compiled=compiled)
    with tempfile.TemporaryDirectory() as run, contextlib.suppress(Enough):
        recipe = Recipe(out=Path(run), eval=EvalOptions(every=0), save=SaveOptions(every=0))
        Session(recipe, trainer, schedule, NoDisplay()).go(None)


def transformers(size: Size, ids: Tensor, clock: Clock, *, compiled: bool) -> None:
    """transformers' GPT-2 in a plain loop, which reads the loss every ten steps as we do."""
    train_precision = precision.choose("auto", clock.device)
    model: Any = _their_model(size).to(clock.device)
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW, fused=True)
    rows = ids[:, :-1]
    for step in itertools.count():
        inputs = rows.to(clock.device)
        clock.start()
        with train_precision.autocast():
            loss = model(inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        clock.end()
        optimizer.zero_grad()
        if step % 10 == 0:
            loss.item()
        if clock.over:
            break


def trainer(size: Size, ids: Tensor, clock: Clock, *, compiled: bool) -> None:
    """transformers' Trainer, otherwise with its defaults."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            clock.end()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop = clock.over

    train_precision = precision.choose("auto", clock.device)
    rows = [{"input_ids": row, "labels": row} for row in ids[:, :-1]]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=len(ids),
            max_steps=10**6,
            learning_rate=ADAMW["lr"],
            adam_beta2=ADAMW["betas"][1],
            weight_decay=ADAMW["weight_decay"],
            bf16=train_precision.name == "bf16",
            fp16=train_precision.name == "fp16",
            optim="adamw_torch_fused",
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            torch_compile=compiled,
            use_cpu=clock.device.type == "cpu",
        )
        TheirTrainer(
            model=_their_model(size),
            args=arguments,
            train_dataset=cast(Any, rows * 1000),
            callbacks=[Marks()],
        ).train()


def _their_model(size: Size) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    config = GPT2Config(**shape, n_positions=size["context"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return GPT2LMHeadModel(config).train()


def outsider(adapter: str, size: Size, ids: Tensor, clock: Clock) -> None:
    """Another tool, as `module:function`; `function(size, ids)` returns a `step()` that trains one step."""
    module, _, function = adapter.partition(":")
    step = getattr(import_module(module), function)(size, ids)
    while not clock.over:
        clock.start()
        step()
        clock.end()


LOOPS = {"gptworks": gptworks, "transformers": transformers, "trainer": trainer}
