"""Classification fine-tuning beside transformers' Trainer, in one run: python benchmarks/finetune.py [--data FILE].

Who takes part, all with GPT-2's network (random weights, its dropout), AdamW, the same texts and the same batch:

    gptworks         as `gptworks finetune classify` trains
    trainer          transformers' Trainer as it comes: a batch padded to its longest text
    trainer tuned    texts of like length together, and bf16 where the hardware multiplies in it
    one at a time    a text a forward pass, a batch's gradients added up: GluePT's way

Each goes twice through all texts, in a process of its own, in turns, `--rounds` times; the second pass is timed whole,
since batches of unlike length come out even over a pass only. Peak memory is a GPU's allocations, or all a CPU process
holds, libraries included. Without --data, texts are random ids as long as SMS spam's are.
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
"""Tokens of its 5,574 texts in GPT-2's vocabulary: quantiles, 5 % apart."""

GOALS = {"trainer": 2.0, "trainer tuned": 1.2, "one at a time": 5.0}
"""How many times faster ours is meant to be."""

LR, BETAS, WEIGHT_DECAY = 5e-5, (0.9, 0.999), 0.0
"""The Trainer's own."""

Texts = tuple[list[np.ndarray], np.ndarray]
"""Ids of every text, and the number of its class."""


class Over(Exception):  # noqa: N818 - no error: a loop that has no other way out is left by it
    """Both passes are done."""


class Watch:
    """Times the second of two passes, from its first step's beginning to its last update."""

    def __init__(self, n_texts: int, batch: int, device: Any) -> None:
        self.steps, self.device = -(-n_texts // batch), device
        self.begun = self.done = 0
        self.seconds = self.cpu_seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        if self.begun == self.steps:
            self.seconds, self.cpu_seconds = -self._now(), -time.process_time()
        self.begun += 1

    def end(self) -> None:
        """Its update is done."""
        self.done += 1
        if self.over:
            self.seconds += self._now()
            self.cpu_seconds += time.process_time()

    @property
    def over(self) -> bool:
        """Whether both passes are done."""
        return self.done == 2 * self.steps

    def _now(self) -> float:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def texts(case: dict[str, Any]) -> Texts:
    """The first of a file's texts, or random ones as long as SMS spam's."""
    n, size = case["examples"], SIZES[case["size"]]
    if case["data"] is None:
        chance = np.random.default_rng(0)
        lengths = np.interp(chance.random(n), np.linspace(0, 1, len(SMS_SPAM)), SMS_SPAM).astype(int)
        return [chance.integers(0, size["vocab_size"] - 1, length) for length in lengths], chance.integers(
            0, 2, n
        )
    from gptworks.data import examples
    from gptworks.recipe import ClassifyOptions
    from gptworks.text.tokenizer import Tokenizer
    from gptworks.train.classifying import encode

    found = examples.load(Path(case["data"]), ClassifyOptions(limit=2 * n))
    rows, _ = encode(found.splits["train"][:n], Tokenizer.load(Path(case["tokenizer"])), size["context"], "")
    return rows, found.targets("train")[:n]


def gptworks(case: dict[str, Any], data: Texts, watch: Watch) -> None:
    """The whole of a run's loop: packing, reading ahead, steps, looks at the losses, metrics on disk. No checkpoint."""
    from loops import NoDisplay

    from gptworks.model import classifier
    from gptworks.model.build import build
    from gptworks.model.config import resolve
    from gptworks.recipe import (
        ClassifyOptions,
        EvalOptions,
        LogOptions,
        ModelOptions,
        OptimOptions,
        Recipe,
        SampleOptions,
        SaveOptions,
        TrainOptions,
    )
    from gptworks.train import classifying, fit, parallel, precision
    from gptworks.train.session import Duties, Session
    from gptworks.train.tasks import Classification, Labelled
    from gptworks.train.trainer import Batch, Plan, Trainer
    from gptworks.world import World, tune_allocator

    class Timed(Classification):
        def loss(self, model: Any, batch: Batch) -> Any:
            if watch.over:
                raise Over
            if watch.begun == watch.done:
                watch.begin()
            return super().loss(model, batch)

    tune_allocator()
    world, numbers = World(0, 1, watch.device), precision.choose("auto", watch.device)
    size = {**SIZES[case["size"]]}
    shape: dict[str, Any] = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    config = resolve(ModelOptions(**shape, dropout=case["dropout"]), size["vocab_size"])
    options = TrainOptions(compile="on" if case["compile"] else "off")
    recipe = Recipe(classify=ClassifyOptions(batch=case["batch"]), train=options)
    encoded = Labelled(*data, 0, min(config.context, classifying.ROOM))
    needs = classifying.memory_needs(recipe, config, ("a", "b"), encoded, numbers)
    micro_batch, _ = fit.finetuning(needs, case["batch"], world)
    model = parallel.prepare(classifier.on(build(config, seed=0), ("a", "b"), seed=0), options, world)
    plan = Plan(10**6, micro_batch, 0, numbers)
    adamw = OptimOptions(lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    trainer = Trainer(model, Timed(encoded, case["batch"], 0), plan, adamw, world)
    trainer.optimizers[-1].register_step_post_hook(lambda *_: watch.end())
    duties = Duties(
        tokenizer=cast(Any, None),  # saved with checkpoints, and there are none
        evaluate=None,
        sample=None,
        steps_per_epoch=watch.steps,
        flops_per_token=0.0,
        peak_flops=1.0,
        eval=EvalOptions(every=0),
        save=SaveOptions(every=0),
        sampling=SampleOptions(),
        log=LogOptions(),
        max_seconds=None,
    )
    with tempfile.TemporaryDirectory() as run, contextlib.suppress(Over):
        Session(Path(run), trainer, duties, NoDisplay()).go(None)


def trainer(case: dict[str, Any], data: Texts, watch: Watch, *, tuned: bool = False) -> None:
    """transformers' Trainer; what is not said here is its default."""
    from transformers import Trainer as TheirTrainer
    from transformers import TrainerCallback, TrainingArguments

    from gptworks.world import fast_dtype

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            watch.end()

    narrow = fast_dtype(watch.device)
    better: dict[str, Any] = {"bf16": narrow == "bf16", "fp16": narrow == "fp16"}
    better |= {"train_sampling_strategy": "group_by_length"}
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
            **(better if tuned else {}),
        )
        TheirTrainer(
            model=_their_model(case),
            args=arguments,
            train_dataset=cast(Any, rows),
            data_collator=partial(padded, padding=SIZES[case["size"]]["vocab_size"] - 1),
            callbacks=[Marks()],
        ).train()


def one_at_a_time(case: dict[str, Any], data: Texts, watch: Watch) -> None:
    """GluePT's way, with transformers' network."""
    model = _their_model(case).to(watch.device)
    singly(model, lambda ids, label: model(input_ids=ids, labels=label).loss, case, data, watch)


def singly(
    model: Any, loss_of: Callable[[Any, Any], Any], case: dict[str, Any], data: Texts, watch: Watch
) -> None:
    """A text a forward pass, without padding; gradients of a batch added up, then an update.

    `loss_of` takes a text's (1, T) ids and its (1,) class.
    """
    import torch

    fused = watch.device.type == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), LR, BETAS, weight_decay=WEIGHT_DECAY, fused=fused)
    chance = np.random.default_rng(0)
    for _ in range(2):
        mixed = chance.permutation(len(data[0]))
        for start in range(0, len(mixed), case["batch"]):
            watch.begin()
            chosen = mixed[start : start + case["batch"]]
            for number in chosen:
                ids = torch.from_numpy(data[0][number])[None].to(watch.device)
                label = torch.tensor([data[1][number]], device=watch.device)
                with torch.autocast("cuda", torch.float16, enabled=fused):  # theirs; on a CPU it is float32
                    loss = loss_of(ids, label) / len(chosen)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            watch.end()


def padded(features: Sequence[dict[str, Any]], padding: int) -> dict[str, Any]:
    """A batch as DataCollatorWithPadding makes it: on the right, to its longest, with an attention mask."""
    import torch

    lengths = torch.tensor([len(one["input_ids"]) for one in features])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(mask.shape, padding)
    ids[mask] = torch.from_numpy(np.concatenate([one["input_ids"] for one in features]))
    labels = torch.tensor([one["label"] for one in features])
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
    """In a process of its own: one contender's figures."""
    from gptworks.world import default_device, peak_memory

    data, device = texts(case), default_device()
    watch = Watch(len(data[0]), case["batch"], device)
    held = peak_memory(device) or 0
    CONTENDERS[case["contender"]](case, data, watch)
    assert watch.over, "it did not go through all texts twice"
    n, peak = len(data[0]), peak_memory(device) or 0
    return {
        "samples_per_second": n / watch.seconds,
        "cpu_seconds_per_sample": watch.cpu_seconds / n,
        "tokens": int(sum(map(len, data[0]))),
        "peak_memory": peak,
        "memory_added": peak - held,
    }


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add to every row how many times faster ours is, by the clock and by the processors' time."""
    ours = rows.get("gptworks", {"failed": ""})
    for name, row in rows.items():
        if "failed" not in row and "failed" not in ours:
            row["ours_is_faster"] = ours["samples_per_second"] / row["samples_per_second"]
            row["ours_is_faster_by_cpu"] = row["cpu_seconds_per_sample"] / ours["cpu_seconds_per_sample"]
            row["goal"] = GOALS.get(name)


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The table."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<14} {row['failed']}")
            continue
        said = (
            f"{name:<14} {row['samples_per_second']:>8.1f} texts/s  "
            f"{row['cpu_seconds_per_sample'] * 1e3:>8.1f} ms of CPU a text  {row['peak_memory'] / 1e9:6.2f} GB"
        )
        if row.get("goal"):
            clock, cpu = row["ours_is_faster"], row["ours_is_faster_by_cpu"]
            said += f"  ours: {clock:.2f}x ({cpu:.2f}x by CPU), goal {row['goal']}x"
        print(said, flush=True)


def main() -> None:
    """Run the contenders in turns and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--data", help="labelled texts; random ids unless given")
    parser.add_argument("--tokenizer", help="a tokenizer's folder, for --data")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="texts per update")
    parser.add_argument("--dropout", type=float, default=0.1, help="of everybody's network; 0.1 is GPT-2's")
    parser.add_argument("--compile", action="store_true", help="of gptworks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="finetune", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    if (options.data is None) != (options.tokenizer is None):
        parser.error("--data and --tokenizer go together")
    asked = ("size", "data", "tokenizer", "examples", "batch", "dropout", "compile")
    common = {name: getattr(options, name) for name in asked}
    cases = {name: common | {"contender": name} for name in options.contenders}
    table = turns.take_turns(__file__, cases, options.rounds)
    compare(table)
    show(table)
    print(machine.write(options.name, common | {"goals": GOALS, "table": table}, options.out))
    if any("failed" in row for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
