"""Measure time to first token and tokens/s of `gptworks serve` with several clients: python benchmarks/serve.py.

Every client sends its next request as soon as it has an answer. Prompts have several lengths, and no text ends before
max_tokens. The server is compared with two loops over transformers' generate, with the same weights and prompts: one
answers requests one after the other, the other one answers the requests of all clients as one padded batch. Neither
uses HTTP, which is an advantage for them. All run in separate processes, in turns.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import machine
import turns
from generate import TEMPERATURE, TOP_K, write_model

LENGTHS = (8, 16, 32, 64, 128)
"""Lengths of the prompts in tokens, in rotation."""

Times = list[tuple[float, float]]
"""(seconds to the first token, seconds to the last) of each request."""


def prompts(clients: int, requests: int) -> list[list[list[int]]]:
    """The prompt ids of each client's requests."""
    return [
        [
            [(7 * client + 3 * number + place) % 256 for place in range(LENGTHS[(client + number) % 5])]
            for number in range(requests)
        ]
        for client in range(clients)
    ]


@contextmanager
def server(folder: Path, clients: int, weights: str) -> Iterator[str]:
    """Run `gptworks serve` in a separate process; yields its address."""
    words = [sys.executable, "-m", "gptworks", "serve", str(folder), "--port", "0"]
    words += ["--max-batch", str(clients), "--dtype", weights]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError((process.communicate()[1].splitlines() or ["the server did not start"])[-1])
        threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr] - a pipe
        yield url
    finally:
        process.terminate()
        process.wait(60)


def ours(
    folder: Path, requests_by_client: list[list[list[int]]], tokens: int, weights: str
) -> tuple[Times, float]:
    """Stream from the server with all clients at once; returns times per request and the total seconds."""
    import httpx2

    times: Times = []

    async def ask(client: httpx2.AsyncClient, ids: list[int]) -> None:
        body = {"model": str(folder), "prompt": ids, "max_tokens": tokens, "stream": True, "seed": 1}
        body |= {"temperature": TEMPERATURE, "top_k": TOP_K, "stream_options": {"include_usage": True}}
        start, first, usage = time.perf_counter(), None, 0
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    first = first or time.perf_counter() - start
                    usage = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", usage)
        assert usage == tokens, "a text ended early"
        assert first is not None
        times.append((first, time.perf_counter() - start))

    async def work(client: httpx2.AsyncClient, requests: list[list[int]]) -> None:
        for ids in requests:
            await ask(client, ids)

    async def everyone(url: str) -> float:
        limits = httpx2.Limits(max_connections=len(requests_by_client))
        async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            await ask(client, requests_by_client[0][0])  # warm-up
            times.clear()
            start = time.perf_counter()
            await asyncio.gather(*(work(client, requests) for requests in requests_by_client))
            return time.perf_counter() - start

    with server(folder, len(requests_by_client), weights) as url:
        seconds = asyncio.run(everyone(url))
    return times, seconds


def transformers_loop(
    folder: Path, requests_by_client: list[list[list[int]]], tokens: int, weights: str, *, together: bool
) -> tuple[Times, float]:
    """transformers' generate, one request at a time, or each round of requests as one batch."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    from gptworks.devices import DTYPES, default_device

    device, dtype = default_device(), DTYPES[weights]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model.to(device)

    class Clock(BaseStreamer):
        """Records when each token arrives; the first call is the prompt."""

        def __init__(self) -> None:
            self.seen: list[float] = []

        def put(self, value: Any) -> None:  # noqa: ARG002 - only the time matters
            self.seen.append(time.perf_counter())

        def end(self) -> None:
            pass

    def run(rows: list[list[int]]) -> tuple[float, float]:
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        clock = Clock()
        model.generate(
            ids,
            attention_mask=mask,
            pad_token_id=0,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            streamer=clock if len(rows) == 1 else None,
        )
        end = time.perf_counter()
        return (clock.seen[1] if len(rows) == 1 else end), end

    torch.manual_seed(0)
    run(requests_by_client[0][:1])  # warm-up
    times: Times = []
    begin = time.perf_counter()
    for number in range(len(requests_by_client[0])):
        start = time.perf_counter()  # all clients send at once, and wait for each other
        rows = [requests[number] for requests in requests_by_client]
        for part in [rows] if together else [[row] for row in rows]:
            first, end = run(part)
            times += [(first - start, end - start)] * len(part)
    return times, time.perf_counter() - begin


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender with one number of clients, in a separate process."""
    folder, requests = Path(case["folder"]), prompts(case["clients"], case["requests"])
    arguments = (folder, requests, case["tokens"], case["weights"])
    if case["contender"] == "gptworks":
        times, seconds = ours(*arguments)
    else:
        together = case["contender"] == "transformers batch"
        times, seconds = transformers_loop(*arguments, together=together)
    firsts, ends = sorted(first for first, _ in times), [end for _, end in times]
    return {
        "first_token_median": statistics.median(firsts),
        "first_token_95": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        "request_median": statistics.median(ends),
        "tokens_per_second": len(times) * case["tokens"] / seconds,
        "requests": len(times),
        "seconds": seconds,
    }


def show(clients: int, rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per contender."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{clients:>3} clients  {name:<20} {row['failed']}", flush=True)
            continue
        print(
            f"{clients:>3} clients  {name:<20} first token {row['first_token_median'] * 1e3:8.1f} ms "
            f"(95 %: {row['first_token_95'] * 1e3:8.1f})  request {row['request_median'] * 1e3:8.1f} ms  "
            f"{row['tokens_per_second']:8.1f} tok/s  {row.get('speed_ratio', 1):.2f}x",
            flush=True,
        )


def main() -> None:
    """Run the contenders in turns, and write the results after each number of clients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--n-layer", type=int, help="default: the preset's")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument(
        "--dtype",
        dest="weights",
        choices=("fp32", "bf16", "fp16"),
        help="dtype of all contenders; default: that of serve",
    )
    parser.add_argument("--requests", type=int, default=3, help="requests per client, one after the other")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens per text")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="serve", help="name of the result file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gptworks.devices import default_device
    from gptworks.generation.loading import best_dtype

    options.weights = options.weights or best_dtype(default_device())
    with tempfile.TemporaryDirectory() as scratch:
        write_model(options.preset, options.n_layer, options.vocab_size, Path(scratch))
        names = ("preset", "n_layer", "vocab_size", "weights", "tokens", "requests")
        facts = {name: getattr(options, name) for name in names}
        facts |= {"prompt_tokens": LENGTHS, "temperature": TEMPERATURE, "top_k": TOP_K}
        table: dict[str, Any] = {}
        file = None
        for clients in options.clients:
            case = {
                "folder": scratch,
                "clients": clients,
                "tokens": options.tokens,
                "requests": options.requests,
                "weights": options.weights,
            }
            names = ["gptworks", "transformers"] + (["transformers batch"] if clients > 1 else [])
            cases = {name: case | {"contender": name} for name in names}
            rows = turns.take_turns(__file__, cases, options.rounds)
            good = {name: row for name, row in rows.items() if "failed" not in row}
            for row in good.values():
                others = [r["tokens_per_second"] for name, r in good.items() if name != "gptworks"]
                row["speed_ratio"] = row["tokens_per_second"] / max(others) if others else 1.0
            show(clients, rows)
            table[f"{clients} clients"] = rows
            file = machine.write(options.name, facts | {"table": table}, options.out)
    print(file)
    if any("failed" in row for rows in table.values() for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
