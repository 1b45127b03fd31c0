"""Compare classifier fine-tuning with transformers' Trainer: python benchmarks/finetune.py [--data FILE].

The contenders have the same GPT-2 (random weights, GPT-2's dropout), AdamW, texts and batch size:

    gptworks         `gptworks finetune classify`
    trainer          transformers' Trainer with its defaults: each batch is padded to its longest text
    trainer tuned    the Trainer with batches of similar length, and bf16 if the hardware supports it
    one at a time    one text per forward pass, accumulating the gradients of a batch, as GluePT does

Each contender trains for two epochs in a separate process, in turns, `--rounds` times. The whole second epoch is
timed, because batches differ in length. Peak memory is that of the GPU allocator, or of the whole process on a CPU.
Without --data, texts are random ids with the lengths of the SMS spam collection.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import machine
import numpy as np
import turns

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 256, "vocab_size": 300},
    "384": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "vocab_size": 4096},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "vocab_size": 50257},
}
SMS_SPAM = (1, 6, 7, 8, 9, 10, 11, 12, 14, 15, 17, 19, 21, 25, 29, 33, 37, 41, 46, 52, 257)
"""Quantiles, 5 % apart, of the lengths of its 5,574 texts in GPT-2 tokens."""

GOALS = {"trainer": 2.0, "trainer tuned": 1.2, "one at a time": 5.0}
"""The speedup that we aim for."""

LR, BETAS, WEIGHT_DECAY = 5e-5, (0.9, 0.999), 0.0
"""The Trainer's defaults."""

Texts = tuple[list[np.ndarray], np.ndarray]
"""Token ids and class index of every text."""


class Over(Exception):  # noqa: N818 - not an error: it leaves a loop that has no other way out
    """Both epochs are done."""


class Watch:
    """Times the second of two epochs, from the start of its first step to its last update."""

    def __init__(self, n_texts: int, batch: int, device: Any) -> None:
        self.steps, self.device = -(-n_texts // batch), device
        self.started = self.done = 0
        self.seconds = self.cpu_seconds = 0.0

    def begin(self) -> None:
        """Mark the start of a step."""
        if self.started == self.steps:
            self.seconds, self.cpu_seconds = -self._now(), -time.process_time()
        self.started += 1

    def end(self) -> None:
        """Mark the end of an update."""
        self.done += 1
        if self.over:
            self.seconds += self._now()
            self.cpu_seconds += time.process_time()

    @property
    def over(self) -> bool:
        """True after two epochs."""
        return self.done == 2 * self.steps

    def _now(self) -> float:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def texts(case: dict[str, Any]) -> Texts:
    """The first texts of a file, or random texts with the lengths of SMS spam."""
    n, size = case["examples"], SIZES[case["size"]]
    if case["data"] is None:
        rng = np.random.default_rng(0)
        lengths = np.interp(rng.random(n), np.linspace(0, 1, len(SMS_SPAM)), SMS_SPAM).astype(int)
        return [rng.integers(0, size["vocab_size"] - 1, length) for length in lengths], rng.integers(0, 2, n)
    from gptworks.data import examples
    from gptworks.recipe import ClassifyOptions
    from gptworks.text.tokenizer import Tokenizer
    from gptworks.train.classifying import encode

    loaded = examples.load(Path(case["data"]), ClassifyOptions(limit=2 * n))
    rows, _ = encode(loaded.splits["train"][:n], Tokenizer.load(Path(case["tokenizer"])), size["context"], "")
    return rows, loaded.targets("train")[:n]


def gptworks(case: dict[str, Any], data: Texts, watch: Watch) -> None:
    """The full loop of a run: packing, prefetching, steps, logging and metrics on disk, without checkpoints."""
    from loops import NoDisplay

    from gptworks.host_memory import tune_allocator
    from gptworks.model import classifier
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.processes import World
    from gptworks.recipe import (
        ClassifyOptions,
        EvalOptions,
        ModelOptions,
        OptimOptions,
        Recipe,
        SaveOptions,
        TrainOptions,
    )
    from gptworks.train import classifying, fit, parallel, precision
    from gptworks.train.session import Session, TrainingSchedule
    from gptworks.train.tasks import ClassificationTask, LabelledTexts
    from gptworks.train.trainer import Batch, Plan, Trainer

    class Timed(ClassificationTask):
        def loss(self, model: Any, batch: Batch) -> Any:
            if watch.over:
                raise Over
            if watch.started == watch.done:
                watch.begin()
            return super().loss(model, batch)

    tune_allocator()
    world, train_precision = World(0, 1, watch.device), precision.choose("auto", watch.device)
    size = {**SIZES[case["size"]]}
    shape: dict[str, Any] = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    config = resolve_config(ModelOptions(**shape, dropout=case["dropout"]), size["vocab_size"])
    options = TrainOptions(compile="on" if case["compile"] else "off")
    recipe = Recipe(classify=ClassifyOptions(batch_examples=case["batch"]), train=options)
    encoded = LabelledTexts(*data, 0, min(config.context, classifying.MAX_ROW_TOKENS))
    needs = classifying.memory_needs(recipe, config, ("a", "b"), encoded, train_precision)
    micro_batch, _ = fit.choose_finetune_micro_batch(needs, case["batch"], world)
    model = parallel.prepare(classifier.with_head(build(config, seed=0), ("a", "b"), seed=0), options, world)
    plan = Plan(10**6, micro_batch, 0, train_precision)
    adamw = OptimOptions(lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(model, Timed(encoded, case["batch"], 0), plan, adamw, world)
    trainer.optimizers[-1].register_step_post_hook(lambda *_: watch.end())
    schedule = TrainingSchedule(
        tokenizer=cast(Any, None),  # only needed for checkpoints
        steps_per_epoch=watch.steps,
        flops_per_token=0.0,
        peak_flops=1.0,
    )
    with tempfile.TemporaryDirectory() as run, contextlib.suppress(Over):
        recipe = Recipe(out=Path(run), eval=EvalOptions(every=0), save=SaveOptions(every=0))
        Session(recipe, trainer, schedule, NoDisplay()).go(None)


def trainer(case: dict[str, Any], data: Texts, watch: Watch, *, tuned: bool = False) -> None:
    """transformers' Trainer; everything else has its default."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainerCallback, TrainingArguments

    from gptworks.devices import fast_dtype

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            watch.end()

    dtype = fast_dtype(watch.device)
    tuning: dict[str, Any] = {"bf16": dtype == "bf16", "fp16": dtype == "fp16"}
    tuning |= {"train_sampling_strategy": "group_by_length"}
    rows = [{"input_ids": ids, "label": int(label)} for ids, label in zip(*data, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case["batch"],
            num_train_epochs=2,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=watch.device.type == "cpu",
            **(tuning if tuned else {}),
        )
        TheirTrainer(
            model=_their_model(case),
            args=arguments,
            train_dataset=cast(Any, rows),
            data_collator=partial(padded, padding=SIZES[case["size"]]["vocab_size"] - 1),
            callbacks=[Marks()],
        ).train()


def one_at_a_time(case: dict[str, Any], data: Texts, watch: Watch) -> None:
    """One text at a time, as GluePT trains, with transformers' model."""
    model = _their_model(case).to(watch.device)
    singly(model, lambda ids, label: model(input_ids=ids, labels=label).loss, case, data, watch)


def singly(
    model: Any, loss_of: Callable[[Any, Any], Any], case: dict[str, Any], data: Texts, watch: Watch
) -> None:
    """One text per forward pass, without padding, and one update per batch.

    `loss_of` takes a text's (1, T) ids and its (1,) class.
    """
    import torch

    fused = watch.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), LR, BETAS, weight_decay=WEIGHT_DECAY, fused=fused)
    rng = np.random.default_rng(0)
    for _ in range(2):
        order = rng.permutation(len(data[0]))
        for start in range(0, len(order), case["batch"]):
            watch.begin()
            chosen = order[start : start + case["batch"]]
            for number in chosen:
                ids = torch.from_numpy(data[0][number])[None].to(watch.device)
                label = torch.tensor([data[1][number]], device=watch.device)
                with torch.autocast("cuda", torch.float16, enabled=fused):  # as in GluePT; float32 on a CPU
                    loss = loss_of(ids, label) / len(chosen)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.end()


def padded(features: Sequence[dict[str, Any]], padding: int) -> dict[str, Any]:
    """A batch padded on the right to its longest text, with an attention mask, like DataCollatorWithPadding."""
    import torch

    lengths = torch.tensor([len(row["input_ids"]) for row in features])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, padding)
    ids[mask] = torch.from_numpy(np.concatenate([row["input_ids"] for row in features]))
    labels = torch.tensor([row["label"] for row in features])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _their_model(case: dict[str, Any]) -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    size, rate = SIZES[case["size"]], case["dropout"]
    shape = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), size["vocab_size"] - 1)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), rate)
    return GPT2ForSequenceClassification(
        GPT2Config(n_positions=size["context"], **shape, **rates, **ids)
    ).train()


CONTENDERS = {
    "gptworks": gptworks,
    "trainer": trainer,
    "trainer tuned": partial(trainer, tuned=True),
    "one at a time": one_at_a_time,
}


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender, in a separate process."""
    from gptworks.devices import default_device
    from gptworks.host_memory import peak_memory

    data, device = texts(case), default_device()
    watch = Watch(len(data[0]), case["batch"], device)
    held = peak_memory(device) or 0
    CONTENDERS[case["contender"]](case, data, watch)
    assert watch.over, "the contender did not train for two epochs"
    n, peak = len(data[0]), peak_memory(device) or 0
    return {
        "samples_per_second": n / watch.seconds,
        "cpu_seconds_per_sample": watch.cpu_seconds / n,
        "tokens": int(sum(map(len, data[0]))),
        "peak_memory": peak,
        "memory_added": peak - held,
    }


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add our speedup to every row, by wall time and by CPU time."""
    ours = rows.get("gptworks", {"failed": ""})
    for name, row in rows.items():
        if "failed" not in row and "failed" not in ours:
            row["ours_is_faster"] = ours["samples_per_second"] / row["samples_per_second"]
            row["ours_is_faster_by_cpu"] = row["cpu_seconds_per_sample"] / ours["cpu_seconds_per_sample"]
            row["goal"] = GOALS.get(name)


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per contender."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<14} {row['failed']}")
            continue
        line = (
            f"{name:<14} {row['samples_per_second']:>8.1f} texts/s  "
            f"{row['cpu_seconds_per_sample'] * 1e3:>8.1f} CPU ms per text  {row['peak_memory'] / 1e9:6.2f} GB"
        )
        if row.get("goal"):
            clock, cpu = row["ours_is_faster"], row["ours_is_faster_by_cpu"]
            line += f"  gptworks: {clock:.2f}x faster ({cpu:.2f}x by CPU time), goal {row['goal']}x"
        print(line, flush=True)


def main() -> None:
    """Run the contenders in turns and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--data", help="labelled texts; default: random ids")
    parser.add_argument("--tokenizer", help="tokenizer folder, for --data")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="texts per update")
    parser.add_argument(
        "--dropout", type=float, default=0.1, help="dropout of all contenders; GPT-2's is 0.1"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile in gptworks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="finetune", help="name of the result file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    if (options.data is None) != (options.tokenizer is None):
        parser.error("--data and --tokenizer go together")
    names = ("size", "data", "tokenizer", "examples", "batch", "dropout", "compile")
    common = {name: getattr(options, name) for name in names}
    cases = {name: common | {"contender": name} for name in options.contenders}
    table = turns.take_turns(__file__, cases, options.rounds)
    compare(table)
    show(table)
    print(machine.write(options.name, common | {"goals": GOALS, "table": table}, options.out))
    if any("failed" in row for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
