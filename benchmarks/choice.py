"""Compare HellaSwag speed with lm-evaluation-harness's `hf` backend: python benchmarks/choice.py --data val.jsonl.

Both load the same folder (random weights, or a MODEL's) and score the same questions with the harness's prompts, from
text to chosen answers. They run in separate processes, in turns. The harness runs with its default of one request at
a time and with batches. Each result is compared with ours in the same dtype, question by question. `--dtypes fp32
bf16` runs both dtypes and also counts the answers that bfloat16 changes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import turns

Score = Callable[[int], list[list[float]]]
"""(number of questions) -> log-likelihoods of the answers to each question."""


def write_model(preset: str, n_layer: int | None, tokenizer: str, folder: Path) -> int:
    """Save a model with random weights and a tokenizer; returns the number of parameters."""
    from gptworks.model import checkpoint, sizing
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions
    from gptworks.text.tokenizer import Tokenizer

    loaded = Tokenizer.load(Path(tokenizer) if Path(tokenizer).exists() else tokenizer)
    config = resolve_config(ModelOptions(preset=preset, n_layer=n_layer), loaded.vocab_size)
    checkpoint.save(build(config, seed=0), folder, loaded)
    return sizing.parameters(config)


def questions(file: Path, n: int) -> list[Any]:
    """The first n questions of a file."""
    from gptworks.data.json_files import read_records
    from gptworks.evaluation.tasks import TASKS

    return [TASKS["hellaswag"].question(record) for record in read_records(file, n)]


def open_model(spec: str, folder: Path) -> int:
    """Save a MODEL to a folder; returns the number of parameters."""
    from gptworks.model import checkpoint, sizing

    source = checkpoint.find_checkpoint(spec)
    model = checkpoint.load(source)
    checkpoint.save(model, folder, checkpoint.load_tokenizer(source))
    return sizing.parameters(model.config)


def ours(folder: Path, items: list[Any], batch_tokens: int | None, dtype: str) -> Score:
    """The scoring code of `gptworks evaluate`."""
    from gptworks.devices import default_device
    from gptworks.evaluation.questions import encode_questions
    from gptworks.evaluation.scoring import score
    from gptworks.model import checkpoint
    from gptworks.train.precision import DTYPES

    model = checkpoint.load(folder, dtype=DTYPES[dtype]).to(default_device())
    tokenizer = checkpoint.load_tokenizer(folder)

    def run(n: int) -> list[list[float]]:
        requests = encode_questions(items[:n], tokenizer, model.config.context).requests
        return [[a.total for a in answers] for answers in score(model, requests, batch_tokens=batch_tokens)]

    return run


def theirs(folder: Path, items: list[Any], batch_size: int, dtype: str) -> Score:
    """lm-evaluation-harness's `hf` backend."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from gptworks.devices import default_device
    from gptworks.train.precision import DTYPES

    make: Any = HFLM  # a decorator hides its arguments from the type checker
    name = str(DTYPES[dtype]).removeprefix("torch.")
    lm = make(pretrained=str(folder), device=str(default_device()), dtype=name, batch_size=batch_size)

    def run(n: int) -> list[list[float]]:
        requests = [
            Instance("loglikelihood", {}, pair, place, ("hellaswag", number, 1))
            for number, question in enumerate(items[:n])
            for place, pair in enumerate(zip(question.contexts, question.continuations, strict=True))
        ]
        scores = iter(lm.loglikelihood(requests, disable_tqdm=True))
        return [[next(scores)[0] for _ in question.contexts] for question in items[:n]]

    return run


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender, in a separate process."""
    from gptworks.devices import default_device
    from gptworks.host_memory import peak_memory, tune_allocator

    items = questions(Path(case["data"]), case["n"])
    if case["contender"] == "gptworks":
        tune_allocator()
        run = ours(Path(case["folder"]), items, case["batch_tokens"], case["dtype"])
    else:
        run = theirs(Path(case["folder"]), items, case["batch_size"], case["dtype"])
    run(min(8, case["n"]))  # warm-up
    start, cpu = time.perf_counter(), time.process_time()
    scores = run(case["n"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "examples_per_second": case["n"] / seconds,
        "cpu_seconds_per_example": cpu / case["n"],
        "peak_memory": peak_memory(default_device()) or 0,
        "scores": scores,
        "lengths": [question.lengths for question in items],
        "gold": [question.gold for question in items],
        "dtype": case["dtype"],
        "contender": case["contender"],
    }


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add our speedup over each of their rows in the same dtype, and the number of identical answers."""
    scores = {name: (row.pop("scores"), row.pop("lengths")) for name, row in rows.items()}
    for name, row in rows.items():
        picks = [chosen(sums, lengths) for sums, lengths in zip(*scores[name], strict=True)]
        row["accuracy"], row["accuracy_per_character"] = (
            sum(pick[rule] == gold for pick, gold in zip(picks, row["gold"], strict=True)) / len(picks)
            for rule in (0, 1)
        )
        del row["gold"]
        ours = f"gptworks {row['dtype']}" if row["contender"] != "gptworks" else "gptworks fp32"
        if ours not in rows or ours == name:
            continue
        mine = rows[ours]
        row["compared_with"] = ours
        row["ours_is_faster_by"] = mine["examples_per_second"] / row["examples_per_second"]
        row["ours_is_faster_by_cpu"] = row["cpu_seconds_per_example"] / mine["cpu_seconds_per_example"]
        pairs = list(zip(scores[ours][0], scores[name][0], scores[name][1], strict=True))
        row["same_answers"] = sum(chosen(a, lengths) == chosen(b, lengths) for a, b, lengths in pairs)
        row["largest_difference"] = max(abs(x - y) for a, b, _ in pairs for x, y in zip(a, b, strict=True))
        row["questions"] = len(pairs)


def chosen(sums: list[float], lengths: list[int]) -> tuple[int, int]:
    """The best answer by log-likelihood, and by log-likelihood per character."""
    normed = [total / length for total, length in zip(sums, lengths, strict=True)]
    return sums.index(max(sums)), normed.index(max(normed))


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per contender."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<20} {row['failed']}", flush=True)
            continue
        line = (
            f"{name:<20} {row['examples_per_second']:8.2f} examples/s "
            f"({row['cpu_seconds_per_example']:.3f} CPU s each)  {row['peak_memory'] / 1e9:.2f} GB"
        )
        line += f"  acc {row['accuracy']:.3f}, acc_norm {row['accuracy_per_character']:.3f}"
        if "same_answers" in row:
            line += (
                f"  {row['compared_with']} {row['ours_is_faster_by']:.2f}x "
                f"({row['ours_is_faster_by_cpu']:.2f}x by CPU)  "
                f"{row['same_answers']} of {row['questions']} answers identical, "
                f"log-likelihoods within {row['largest_difference']:.1e}"
            )
        print(line, flush=True)


def main() -> None:
    """Run the contenders in turns and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="HellaSwag as JSON lines")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--n-layer", type=int, help="default: the preset's")
    parser.add_argument("--model", help="a trained MODEL instead of random weights")
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--batch-tokens", type=int, help="batch size of gptworks; default: that of evaluate")
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[1, 16], help="batch sizes of lm-evaluation-harness"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    if options.data is None:
        parser.error("--data is required: a file with the questions")

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.model:
            parameters = open_model(options.model, folder)
        else:
            parameters = write_model(options.preset, options.n_layer, options.tokenizer, folder)
        cases: dict[str, dict[str, Any]] = {}
        for dtype in options.dtypes:
            case = {"folder": scratch, "data": str(options.data), "n": options.questions, "dtype": dtype}
            ours = {"contender": "gptworks", "batch_tokens": options.batch_tokens}
            cases[f"gptworks {dtype}"] = case | ours
            for size in options.batch_sizes:
                cases[f"lm_eval hf {dtype}, batch {size}"] = case | {
                    "contender": "lm_eval",
                    "batch_size": size,
                }
        rows = turns.take_turns(__file__, cases, options.rounds)
        good = {name: row for name, row in rows.items() if "failed" not in row}
        compare(good)
        show(rows)
        facts = {
            "weights": "trained" if options.model else f"random, {options.preset}",
            "n_layer": options.n_layer,
            "parameters": parameters,
        }
        facts |= {"questions": options.questions, "rounds": options.rounds, "data": options.data.name}
        print(machine.write("choice", facts | {"table": rows}, options.out))
    if any("failed" in row for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
