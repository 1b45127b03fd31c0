"""Compare generation speed with transformers.generate: python benchmarks/generate.py [--preset gpt2 --dtypes bf16].

Both load the same folder of random weights and sample from the same prompt with the same settings until max_tokens,
in separate processes, in turns. In 16-bit dtypes, gptworks also runs with int8 weights. The time per token cannot be
less than the bytes of the weights divided by the read bandwidth, which is measured in the same run; the table shows
the share of that bandwidth that each contender uses. `--quality MODEL TEXT` measures how much a trained model loses
in each dtype.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import turns

PROMPT = "a" * 32
TEMPERATURE, TOP_K = 0.8, 50
CONTENDERS = ("gptworks", "transformers")
INT8 = "gptworks int8"
Generate = Callable[[int, int, float], list[list[int]]]
"""(samples, tokens per sample, temperature) -> new ids; temperature 0 is greedy."""


def write_model(preset: str, n_layer: int | None, vocab_size: int, folder: Path) -> tuple[int, int]:
    """Save random weights, and a tokenizer with every id and no end of text.

    Returns (number of weights read per token, prompt length in tokens).
    """
    from gptworks.model import checkpoint, sizing
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions
    from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS
    from gptworks.text.tokenizer import Tokenizer
    from gptworks.text.vocabulary import Vocabulary

    ids = {bytes([byte]): id for id, byte in enumerate(BYTE_ORDER)}
    pairs = (bytes([first, second]) for first in range(256) for second in range(256))
    ids |= {pair: 256 + i for i, pair in zip(range(vocab_size - 256), pairs, strict=False)}
    tokenizer = Tokenizer.from_vocabulary(Vocabulary(ids, (), (PATTERNS["gpt2"],)))
    config = resolve_config(ModelOptions(preset=preset, n_layer=n_layer), vocab_size)
    checkpoint.save(build(config, seed=0), folder, tokenizer)
    return sizing.blocks(config) + sizing.embedding(config), len(tokenizer.encode(PROMPT))


def ours(folder: Path, dtype: Any, device: Any, *, int8: bool) -> Generate:
    """The engine of `gptworks generate`, `chat` and `serve`."""
    from gptworks.generation.engine import GenerateSettings, generate
    from gptworks.model import checkpoint
    from gptworks.model.int8 import quantize

    model = checkpoint.load(folder, dtype=dtype).to(device)
    model = quantize(model) if int8 else model
    tokenizer = checkpoint.load_tokenizer(folder)

    def run(samples: int, tokens: int, temperature: float) -> list[list[int]]:
        settings = GenerateSettings(
            max_tokens=tokens, temperature=temperature, top_k=TOP_K, samples=samples, seed=1
        )
        return [sample.ids for sample in generate(model, tokenizer, PROMPT, settings)]

    return run


def theirs(folder: Path, dtype: Any, device: Any, cache: str | None) -> Generate:
    """transformers' generate; cache="static" also compiles it, if the device supports that."""
    import torch
    from transformers import AutoModelForCausalLM

    from gptworks.model import checkpoint

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model.to(device)
    prompt = torch.tensor([checkpoint.load_tokenizer(folder).encode(PROMPT)], device=device)

    def run(samples: int, tokens: int, temperature: float) -> list[list[int]]:
        sampling = {"temperature": temperature, "top_k": TOP_K, "num_return_sequences": samples}
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            pad_token_id=0,
            max_new_tokens=tokens,
            cache_implementation=cache,
            do_sample=temperature > 0,
            **sampling if temperature else {},
        )
        return output[:, prompt.shape[1] :].tolist()

    return run


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender with one number of samples, in a separate process."""
    import torch

    from gptworks.devices import default_device
    from gptworks.host_memory import peak_memory, tune_allocator
    from gptworks.model import checkpoint, memory
    from gptworks.train.precision import DTYPES

    device, dtype, folder = default_device(), DTYPES[case["dtype"]], Path(case["folder"])
    torch.manual_seed(0)
    if case["contender"] != "transformers":
        tune_allocator()
        run = ours(folder, dtype, device, int8=case["contender"] == INT8)
    else:
        run = theirs(folder, dtype, device, case["cache"])
    samples, tokens = case["samples"], case["tokens"]
    greedy = run(1, min(32, tokens), 0.0)[0]  # also a warm-up
    run(samples, tokens, TEMPERATURE)
    times: list[float] = []
    end, cpu = time.perf_counter() + case["seconds"], time.process_time()
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        ids_per_sample = run(samples, tokens, TEMPERATURE)
        times.append(time.perf_counter() - start)
        assert [len(ids) for ids in ids_per_sample] == [tokens] * samples, "a sample ended early"
    seconds = statistics.median(times)
    config = checkpoint.read_config(folder)
    parts = memory.generation(config, samples, len(PROMPT) + tokens, dtype=case["dtype"])
    return {
        "tokens_per_second": samples * tokens / seconds,
        "seconds_per_token": seconds / tokens,
        "cpu_seconds_per_token": (time.process_time() - cpu) / len(times) / tokens,
        "peak_memory": peak_memory(device) or 0,
        "memory_estimated": sum(parts.values()),
        "repeats": len(times),
        "greedy": greedy,
    }


def quality(folder: Path, text: str, dtype: str) -> float:
    """Nats per token on the first 64 windows of a text, with weights of a dtype or in int8."""
    import torch
    import torch.nn.functional as F

    from gptworks.devices import default_device
    from gptworks.model import checkpoint
    from gptworks.model.int8 import quantize
    from gptworks.train.precision import DTYPES

    device, kind = default_device(), DTYPES["bf16" if dtype == "int8" else dtype]
    model = checkpoint.load(folder, dtype=kind).to(device).eval()
    model = quantize(model) if dtype == "int8" else model
    ids, context = checkpoint.load_tokenizer(folder).encode(text), model.config.context
    windows = [ids[i : i + context + 1] for i in range(0, len(ids) - context, context)][:64]
    losses = []
    with torch.inference_mode():
        for window in windows:
            row = torch.tensor([window], device=device)
            logits = model.logits(model(row[:, :-1]))
            losses.append(F.cross_entropy(logits[0], row[0, 1:]).item())
    return statistics.fmean(losses)


def read_bandwidth(device: Any) -> float:
    """Bytes/s while summing an array larger than any cache: the best of five."""
    import torch

    array = torch.ones((1 << 33 if device.type == "cuda" else 1 << 28) // 4, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        array.sum().item()
        best = max(best, array.nbytes / (time.perf_counter() - start))
    return best


def measure(
    options: argparse.Namespace, folder: Path, weights: int, bandwidth: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (dtype and number of samples, results by contender)."""
    for dtype in options.dtypes:
        bytes_each = 4 if dtype == "fp32" else 2
        for samples in options.samples:
            case = {"folder": str(folder), "dtype": dtype, "samples": samples, "cache": None}
            case |= {"tokens": options.tokens, "seconds": options.seconds}
            names = CONTENDERS if dtype == "fp32" else (*CONTENDERS, INT8)
            cases = {name: case | {"contender": name} for name in names}
            if options.static:
                cases["transformers static"] = case | {"contender": "transformers", "cache": "static"}
            rows = turns.take_turns(__file__, cases, options.rounds)
            good = {name: row for name, row in rows.items() if "failed" not in row}
            for name, row in good.items():
                floor = weights * (1 if name == INT8 else bytes_each) / bandwidth
                row["bandwidth_share"] = floor / row["seconds_per_token"]
            _compare(good)
            yield f"{dtype} x {samples}", rows


def _compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add the speedup over transformers' fastest row, and for how many tokens the greedy texts agree."""
    theirs = [row for name, row in rows.items() if name.startswith("transformers")]
    greedy = {name: row.pop("greedy") for name, row in rows.items()}
    for name, row in rows.items():
        if theirs:
            row["speed_ratio"] = row["tokens_per_second"] / max(r["tokens_per_second"] for r in theirs)
        if "transformers" in greedy:
            pairs = zip(greedy[name], greedy["transformers"], strict=True)
            row["greedy_agree"] = next((i for i, (a, b) in enumerate(pairs) if a != b), len(greedy[name]))


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per contender."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{title:<10} {name:<20} {row['failed']}", flush=True)
            continue
        print(
            f"{title:<10} {name:<20} {row['tokens_per_second']:>9,.1f} tok/s  "
            f"{row['seconds_per_token'] * 1e3:8.2f} ms/token "
            f"({row['cpu_seconds_per_token'] * 1e3:.2f} CPU)  "
            f"{row['bandwidth_share']:6.1%} of bandwidth  {row['peak_memory'] / 1e9:.2f} GB "
            f"(estimated {row['memory_estimated'] / 1e9:.2f})  {row.get('speed_ratio', 1):.2f}x  "
            f"greedy agrees for {row.get('greedy_agree', 0)} tokens",
            flush=True,
        )


def main() -> None:
    """Run the contenders in turns, and write the results after each number of samples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--n-layer", type=int, help="default: the preset's")
    parser.add_argument(
        "--dtypes", nargs="+", choices=("fp32", "bf16", "fp16"), help="default: fp32 and the fastest dtype"
    )
    parser.add_argument("--samples", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128, help="new tokens per sample")
    parser.add_argument(
        "--static", action="store_true", help="also run transformers with a static cache, compiled on a GPU"
    )
    parser.add_argument("--seconds", type=float, default=10, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--quality",
        nargs=2,
        metavar=("MODEL", "TEXT"),
        help="measure the loss of a trained model on a text file",
    )
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return

    from gptworks.devices import default_device, fast_dtype

    device = default_device()
    options.dtypes = options.dtypes or sorted({"fp32", fast_dtype(device)}, reverse=True)
    bandwidth = read_bandwidth(device)
    with tempfile.TemporaryDirectory() as scratch:
        weights, prompt = write_model(options.preset, options.n_layer, options.vocab_size, Path(scratch))
        facts = {name: getattr(options, name) for name in ("preset", "n_layer", "vocab_size", "tokens")}
        facts |= {"prompt_tokens": prompt, "temperature": TEMPERATURE, "top_k": TOP_K}
        facts |= {"weights_read_a_token": weights, "read_bandwidth": bandwidth}
        if options.quality:
            from gptworks.model.find import find_checkpoint

            trained, text = (
                find_checkpoint(options.quality[0]),
                Path(options.quality[1]).read_text(encoding="utf-8"),
            )
            losses = {name: quality(trained, text, name) for name in (*options.dtypes, "int8")}
            facts["nats_per_token"] = losses
            print(
                "nats per token: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()),
                flush=True,
            )
        table: dict[str, Any] = {}
        file = None
        for title, rows in measure(options, Path(scratch), weights, bandwidth):
            show(title, rows)
            table[title] = rows
            file = machine.write("generate", facts | {"table": table}, options.out)
    print(file)
    if any("failed" in row for rows in table.values() for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
