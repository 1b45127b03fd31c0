"""Kill every command that writes files at random, and check that it recovers: kills.py [--kills 200] [--jobs 5].

Each command runs once undisturbed. Then it is killed and restarted until it finishes, and its files are compared with
those of the undisturbed run. There must be no differences and no additional files. Half of the kills happen after a
random time, the other half before a random file operation (opening for writing, renaming, removing, making a folder),
so that many of them hit a save.

Killed processes are forked from one that has imported everything, which saves the start-up time. Plots would take
longer than everything else, so they are replaced by a few bytes each.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine

TIMED = {"seconds", "tokens_per_second", "mfu", "peak_memory"}
"""Keys that may differ between two identical runs."""

OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"}

SHAPE = "--model.n-layer 2 --model.n-head 2 --model.n-embd 32 --model.context 48 --model.dropout 0.1"
SHORT = "--log.every 3 --eval.every 8 --save.every 3 --optim.lr 3e-3 --train.micro-batch 4"


@dataclass(frozen=True)
class Case:
    """A command, and its share of the kills."""

    name: str
    line: str
    """The command line; {here} is the folder with the inputs, {out} the output folder."""
    share: float


CASES = (
    Case("prepare", "prepare --workers 1 {prepare}", 0.2),
    Case("prepare, two workers", "prepare --workers 2 {prepare}", 0.05),
    Case("pretrain", "pretrain --data {here}/set --out {out} --resume {pretrain}", 0.25),
    Case("finetune classify", "{classify} --out {out} --resume", 0.2),
    Case("finetune classify, two seeds", "{classify} --out {out} --resume --n-seeds 2", 0.05),
    Case(
        "finetune instruct",
        "finetune instruct --data {here}/alpaca.json --out {out} --resume {instruct}",
        0.25,
    ),
)
OPTIONS = {
    "prepare": "--sources {here}/docs.jsonl --tokenizer {here}/bpe --out {out} --dedup --val-fraction 0.1 "
    "--shard-tokens 2000",
    "pretrain": f"{SHAPE} {SHORT} --train.batch-tokens 384 --train.max-steps 40 --sample.every 10 "
    "--sample.max-tokens 8 --eval.tokens 512",
    "classify": f"finetune classify --data {{here}}/messages --model {{here}}/base {SHORT} --batch-examples 8 "
    "--train.max-steps 24",
    "instruct": f"--model {{here}}/base {SHORT} --template {{here}}/short.jinja --batch-examples 8 "
    "--train.max-steps 24 --lora.rank 4 --n-responses 2 --max-response-tokens 8",
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ '>' if m.role == 'user' else eos_token }}{% endfor %}"


def command(case: Case, here: Path, out: Path) -> list[str]:
    """The arguments of its command line."""
    line = case.line
    for name, options in OPTIONS.items():
        line = line.replace(f"{{{name}}}", options)
    return [word.replace("{here}", str(here)).replace("{out}", str(out)) for word in line.split()]


def inputs(here: Path) -> None:
    """Write texts, a tokenizer, a Dataset, a base model, and examples for both kinds of fine-tuning."""
    rng = random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "and", "then", "it", "was", "red"]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) + "." for _ in range(300)]
    (here / "docs.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    rows = []
    for number in range(80):
        text = " ".join(rng.choices(words, k=rng.randint(1, 6)))
        rows.append(f"spam\t{text}!!!\n" if number % 4 == 0 else f"ham\t{text} :)\n")
    (here / "messages").write_text("".join(rows), encoding="utf-8")
    pairs = [
        {"instruction": f"{word} {n}?", "input": "", "output": word} for n in range(12) for word in words
    ]
    (here / "alpaca.json").write_text(json.dumps(pairs), encoding="utf-8")
    (here / "short.jinja").write_text(TEMPLATE, encoding="utf-8")
    for line in (
        f"tokenizer train --sources {here}/docs.jsonl --vocab-size 300 --out {here}/bpe",
        f"prepare --workers 1 {OPTIONS['prepare']}".replace("{out}", f"{here}/set"),
        f"pretrain --data {here}/set --out {here}/run {OPTIONS['pretrain']}",
    ):
        status, _ = start(line.replace("{here}", str(here)).split(), here)
        assert status == 0, f"{line}: status {status}, see {here}/log.txt"
    newest = max((here / "run" / "checkpoints").glob("step-*"))
    shutil.copytree(newest, here / "base", ignore=shutil.ignore_patterns("trainer"))


def start(
    words: list[str], here: Path, *, kill_after: float | None = None, kill_at: int | None = None
) -> tuple[int, int]:
    """Run a command in a child process, and kill it after `kill_after` seconds or before file operation `kill_at`.

    Returns its exit status (negative if a signal ended it) and, if it was not killed, its number of file operations.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(words, here, kill_at, writer)
    os.close(writer)
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        ended, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if ended:
            break
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.001)
    with os.fdopen(reader, "rb") as pipe:
        operations = pipe.read()
    return os.waitstatus_to_exitcode(status), int(operations or 0)


def _live(words: list[str], here: Path, kill_at: int | None, writer: int) -> None:
    """Run the command in the child process; does not return."""
    log = os.open(here / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count, inside = 0, str(here)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if not _changes_files(event, arguments, inside):
            return
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    from gptworks.cli import main

    status = 1
    try:
        status = main(words)
        os.write(writer, str(count).encode())
    finally:
        sys.stdout.flush()
        os._exit(status)


def _changes_files(event: str, arguments: tuple[Any, ...], inside: str) -> bool:
    if event == "open":
        path, mode, flags = arguments[:3]
        writes = any(letter in mode for letter in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))
        return writes and isinstance(path, str | os.PathLike) and str(path).startswith(inside)
    return event in OPERATIONS and str(arguments[0]).startswith(inside)


def contents(folder: Path) -> dict[str, Any]:
    """By file name, the content that must be the same in two identical runs."""
    return {
        path.relative_to(folder).as_posix(): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> Any:
    if path.name == "complete.json":
        from gptworks import runs

        return runs.damage(path.parent.parent)
    if path.name in {"lock", "memory.json"} or path.suffix in {".html", ".svg"}:
        return path.stat().st_size > 0
    if path.suffix == ".png":
        return path.read_bytes().endswith(b"IEND\xaeB`\x82")
    if path.suffix == ".jsonl":
        return [_untimed(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.name == "state.json":
        return _untimed(json.loads(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMED}


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Files that are missing, left over or different."""
    missing = [f"{name} is missing" for name in sorted(expected.keys() - actual.keys())]
    extra = [f"{name} is left over" for name in sorted(actual.keys() - expected.keys())]
    return (
        missing
        + extra
        + [f"{name} differs" for name in expected if name in actual and expected[name] != actual[name]]
    )


def in_a_save(out: Path) -> bool:
    """True if the kill left something half-written."""
    return any(".draft" in path.name or ".partial" in path.name for path in out.rglob("*")) or any(
        not (folder / "trainer" / "complete.json").is_file() for folder in out.glob("checkpoints/step-*")
    )


def harass(case: Case, inputs: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a command `kills` times, over as many rounds as that takes; returns counts and differences."""
    here, rng = inputs / case.name.replace(" ", "-").replace(",", ""), random.Random(seed)
    here.mkdir()
    out = here / "out"
    words = command(case, inputs, out)
    start_time = time.monotonic()
    status, operations = start(words, here)
    assert status == 0, f"{case.name}: status {status}, see {here}/log.txt"
    seconds, wanted = time.monotonic() - start_time, contents(out)
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    while tally["kills"] < kills:
        shutil.rmtree(out)
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            kill: dict[str, Any] = {}
            if tally["kills"] < kills:
                by_clock = rng.random() < 0.5
                kill = {"kill_after": rng.uniform(0, seconds)} if by_clock else {}
                kill = kill or {"kill_at": rng.randint(1, max(2, operations * 3 // 4))}
            status, _ = start(words, here, **kill)
            if status == -signal.SIGKILL:
                tally["kills"] += 1
                tally["by the clock" if "kill_after" in kill else "at a file operation"] += 1
                tally["left something half written"] += in_a_save(out)
        tally["rounds"] += 1
        lines = (here / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problems = (
            [f"status {status}: {lines[-1] if lines else ''}"]
            if status
            else differences(wanted, contents(out))
        )
        wrong += [f"{case.name}, round {tally['rounds']}: {problem}" for problem in problems]
        print(
            f"{case.name}: {tally['kills']} of {kills} kills, {tally['rounds']} rounds, {len(wrong)} differences",
            *problems,
            sep="\n  ",
            flush=True,
        )
        if problems:
            shutil.copytree(out, here / f"round-{tally['rounds']}")
    shutil.rmtree(out)
    figures = {"undisturbed_seconds": round(seconds, 2), "file_operations": operations, "files": len(wanted)}
    return figures | dict(sorted(tally.items())) | {"differences": wrong}


def main() -> None:
    """Kill, compare and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="commands to test at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--out", type=Path, default=machine.RESULTS)
    args = parser.parse_args()
    import_everything()
    here = Path(tempfile.mkdtemp(prefix="kills-"))
    inputs(here)
    chosen = [case for case in CASES if args.only in case.name]
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        jobs = {
            case.name: pool.submit(harass, case, here, max(1, round(args.kills * case.share)), args.seed)
            for case in chosen
        }
        results = {name: job.result() for name, job in jobs.items()}
    totals = {
        "kills": sum(result["kills"] for result in results.values()),
        "differences": sum(len(result["differences"]) for result in results.values()),
    }
    if totals["differences"]:
        print(f"the runs that differ are kept in {here}")
    else:
        shutil.rmtree(here)
    print(json.dumps(results, indent=1))
    print(machine.write("kills", {"seed": args.seed} | totals | {"cases": results}, args.out))
    if totals["differences"]:
        sys.exit(1)


def import_everything() -> None:
    """Import once, before forking; also make work units small, so that little text has many, and plots empty."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    from matplotlib.figure import Figure

    from gptworks.commands import finetune, instruct, prepare, pretrain  # noqa: F401
    from gptworks.data import work_units
    from gptworks.evaluation import report, training  # noqa: F401
    from gptworks.reports import page, plots  # noqa: F401
    from gptworks.train import classifying, instructing, pretraining, session  # noqa: F401

    torch.set_num_threads(1)
    work_units.UNIT_BYTES = 4000
    Figure.savefig = _picture  # type: ignore[method-assign]


def _picture(_: object, to: Any, **__: object) -> None:
    """Write a few bytes instead of drawing."""
    if isinstance(to, str | os.PathLike):
        Path(to).write_bytes(b"<svg></svg> IEND\xaeB`\x82")
    else:
        to.write("<svg></svg>" if isinstance(to, io.TextIOBase) else b"<svg></svg>")


if __name__ == "__main__":
    main()
