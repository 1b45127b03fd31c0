"""Speed of HellaSwag beside lm-evaluation-harness's `hf` backend: python benchmarks/choice.py --data val.jsonl.

Both open the same folder, of random weights or a MODEL's, and score the same questions, as the harness words them,
from text to chosen answers, in processes of their own, in turns. The backend is run with its default of one request at
a time and with batches. Ours in the same numbers is compared with each, question by question; --dtypes fp32 bf16 runs
both kinds, and also counts the answers that bfloat16 changes.
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
"""(questions) -> the log-likelihood of each one's answers."""


def write_model(preset: str, n_layer: int | None, tokenizer: str, folder: Path) -> int:
    """Random weights and a tokenizer, as everyone opens them. -> parameters."""
    from gptworks.model import checkpoint, sizing
    from gptworks.model.build import build
    from gptworks.model.config import resolve
    from gptworks.recipe import ModelOptions
    from gptworks.text.tokenizer import Tokenizer

    words = Tokenizer.load(Path(tokenizer) if Path(tokenizer).exists() else tokenizer)
    config = resolve(ModelOptions(preset=preset, n_layer=n_layer), words.vocab_size)
    checkpoint.save(build(config, seed=0), folder, words)
    return sizing.parameters(config)


def questions(file: Path, n: int) -> list[Any]:
    """The first questions of a file."""
    from gptworks.data import items
    from gptworks.evaluate.tasks import TASKS

    return [TASKS["hellaswag"].question(record) for record in items.from_file(file, n)]


def open_model(spec: str, folder: Path) -> int:
    """A MODEL as a folder that everyone opens. -> parameters."""
    from gptworks.model import checkpoint, sizing

    found = checkpoint.resolve(spec)
    model = checkpoint.load(found)
    checkpoint.save(model, folder, checkpoint.load_tokenizer(found))
    return sizing.parameters(model.config)


def ours(folder: Path, asked: list[Any], batch_tokens: int | None, dtype: str) -> Score:
    """The scoring behind `gptworks evaluate`."""
    from gptworks.evaluate.questions import ask
    from gptworks.evaluate.scoring import score
    from gptworks.model import checkpoint
    from gptworks.train.precision import DTYPES
    from gptworks.world import default_device

    model = checkpoint.load(folder, dtype=DTYPES[dtype]).to(default_device())
    tokenizer = checkpoint.load_tokenizer(folder)

    def run(n: int) -> list[list[float]]:
        requests = ask(asked[:n], tokenizer, model.config.context).requests
        return [[a.total for a in answers] for answers in score(model, requests, batch_tokens=batch_tokens)]

    return run


def theirs(folder: Path, asked: list[Any], batch_size: int, dtype: str) -> Score:
    """The harness's own backend."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from gptworks.train.precision import DTYPES
    from gptworks.world import default_device

    make: Any = HFLM  # its arguments are lost to a type checker behind a decorator
    name = str(DTYPES[dtype]).removeprefix("torch.")
    lm = make(pretrained=str(folder), device=str(default_device()), dtype=name, batch_size=batch_size)

    def run(n: int) -> list[list[float]]:
        requests = [
            Instance("loglikelihood", {}, pair, place, ("hellaswag", number, 1))
            for number, question in enumerate(asked[:n])
            for place, pair in enumerate(zip(question.contexts, question.continuations, strict=True))
        ]
        found = iter(lm.loglikelihood(requests, disable_tqdm=True))
        return [[next(found)[0] for _ in question.contexts] for question in asked[:n]]

    return run


def work(case: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: one contender's figures."""
    from gptworks.world import default_device, peak_memory, tune_allocator

    asked = questions(Path(case["data"]), case["n"])
    if case["contender"] == "gptworks":
        tune_allocator()
        run = ours(Path(case["folder"]), asked, case["batch_tokens"], case["dtype"])
    else:
        run = theirs(Path(case["folder"]), asked, case["batch_size"], case["dtype"])
    run(min(8, case["n"]))  # warms up
    start, cpu = time.perf_counter(), time.process_time()
    found = run(case["n"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "examples_per_second": case["n"] / seconds,
        "cpu_seconds_per_example": cpu / case["n"],
        "peak_memory": peak_memory(default_device()) or 0,
        "found": found,
        "lengths": [question.lengths for question in asked],
        "rights": [question.gold for question in asked],
        "dtype": case["dtype"],
        "contender": case["contender"],
    }


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Our speed over each of theirs in the same numbers, and how many questions get the same answers."""
    found = {name: (row.pop("found"), row.pop("lengths")) for name, row in rows.items()}
    for name, row in rows.items():
        picks = [chosen(sums, lengths) for sums, lengths in zip(*found[name], strict=True)]
        row["accuracy"], row["accuracy_per_character"] = (
            sum(pick[way] == right for pick, right in zip(picks, row["rights"], strict=True)) / len(picks)
            for way in (0, 1)
        )
        del row["rights"]
        ours = f"gptworks {row['dtype']}" if row["contender"] != "gptworks" else "gptworks fp32"
        if ours not in rows or ours == name:
            continue
        mine = rows[ours]
        row["compared_with"] = ours
        row["ours_is_faster_by"] = mine["examples_per_second"] / row["examples_per_second"]
        row["ours_is_faster_by_cpu"] = row["cpu_seconds_per_example"] / mine["cpu_seconds_per_example"]
        pairs = list(zip(found[ours][0], found[name][0], found[name][1], strict=True))
        row["same_answers"] = sum(chosen(a, lengths) == chosen(b, lengths) for a, b, lengths in pairs)
        row["largest_difference"] = max(abs(x - y) for a, b, _ in pairs for x, y in zip(a, b, strict=True))
        row["questions"] = len(pairs)


def chosen(sums: list[float], lengths: list[int]) -> tuple[int, int]:
    """The answer by sum, and by sum per character."""
    per = [total / length for total, length in zip(sums, lengths, strict=True)]
    return sums.index(max(sums)), per.index(max(per))


def show(rows: dict[str, dict[str, Any]]) -> None:
    """A line a contender."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{name:<20} {row['failed']}", flush=True)
            continue
        line = (
            f"{name:<20} {row['examples_per_second']:8.2f} examples/s "
            f"({row['cpu_seconds_per_example']:.3f} s of CPU each)  {row['peak_memory'] / 1e9:.2f} GB"
        )
        line += f"  acc {row['accuracy']:.3f}, acc_norm {row['accuracy_per_character']:.3f}"
        if "same_answers" in row:
            line += (
                f"  {row['compared_with']} {row['ours_is_faster_by']:.2f}x "
                f"({row['ours_is_faster_by_cpu']:.2f}x by CPU)  "
                f"same answers {row['same_answers']} of {row['questions']}, "
                f"sums within {row['largest_difference']:.1e}"
            )
        print(line, flush=True)


def main() -> None:
    """Run the contenders in turns and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="HellaSwag as JSON lines")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--n-layer", type=int, help="default: the preset's")
    parser.add_argument("--model", help="a trained MODEL, instead of random weights of the preset")
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--batch-tokens", type=int, help="ours; default: evaluate's")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16], help="theirs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    if options.data is None:
        parser.error("--data is needed: the questions")

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
