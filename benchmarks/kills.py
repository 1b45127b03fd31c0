"""Does SIGKILL cost anything but time? kills.py [--kills 200] [--jobs 5]: all that makes files, killed at random.

Every piece of work is done once undisturbed. Then again and again: killed, started anew by the same command, killed,
until it comes through; what it leaves is compared with what the undisturbed one left, file by file, and nothing else
may lie there. Half of the kills come after a random time, half before a random one of the file operations that a
run makes (opening to write, renaming, removing, making a folder), so that many fall inside a save.

The killed processes are forked from one that has imported everything, so that a kill costs no start; and pictures,
which would take longer than all the rest, are a few bytes each.
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
"""What two equal runs may differ in."""

OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"}

SHAPE = "--model.n-layer 2 --model.n-head 2 --model.n-embd 32 --model.context 48 --model.dropout 0.1"
SHORT = "--log.every 3 --eval.every 8 --save.every 3 --optim.lr 3e-3 --train.micro-batch 4"


@dataclass(frozen=True)
class Case:
    """A piece of work, and its share of the kills."""

    name: str
    words: str
    """The command line; {here} is the folder with the inputs, {out} what it makes."""
    share: float


CASES = (
    Case("prepare", "prepare --workers 1 {prepare}", 0.2),
    Case("prepare, two workers", "prepare --workers 2 {prepare}", 0.05),
    Case("pretrain", "pretrain --data {here}/set --out {out} --resume {pretrain}", 0.25),
    Case("finetune classify", "{classify} --out {out} --resume", 0.2),
    Case("finetune classify, two tries", "{classify} --out {out} --resume --tries 2", 0.05),
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
    "classify": f"finetune classify --data {{here}}/messages --model {{here}}/base {SHORT} --batch 8 "
    "--train.max-steps 24",
    "instruct": f"--model {{here}}/base {SHORT} --template {{here}}/short.jinja --batch 8 --train.max-steps 24 "
    "--lora.rank 4 --responses 2 --answer-tokens 8",
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ '>' if m.role == 'user' else eos_token }}{% endfor %}"


def command(case: Case, here: Path, out: Path) -> list[str]:
    """Its words."""
    line = case.words
    for name, options in OPTIONS.items():
        line = line.replace(f"{{{name}}}", options)
    return [word.replace("{here}", str(here)).replace("{out}", str(out)) for word in line.split()]


def inputs(here: Path) -> None:
    """Texts, a tokenizer, a Dataset, a base model, examples of two kinds."""
    chance = random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "and", "then", "it", "was", "red"]
    texts = [" ".join(chance.choices(words, k=chance.randint(5, 60))) + "." for _ in range(300)]
    (here / "docs.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    rows = []
    for number in range(80):
        text = " ".join(chance.choices(words, k=chance.randint(1, 6)))
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
    """A command in a process of its own, killed after so many seconds or before so many file operations, or left alone.

    Returns its exit status, negative if a signal ended it, and how many file operations it made if it was left alone.
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
        counted = pipe.read()
    return os.waitstatus_to_exitcode(status), int(counted or 0)


def _live(words: list[str], here: Path, kill_at: int | None, writer: int) -> None:
    """The child's life; does not return."""
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
    """By name, all that two equal pieces of work must agree in."""
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


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is missing, too much, or not the same."""
    missing = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    litter = [f"{name} is litter" for name in sorted(found.keys() - wanted.keys())]
    return (
        missing
        + litter
        + [f"{name} differs" for name in wanted if name in found and wanted[name] != found[name]]
    )


def in_a_save(out: Path) -> bool:
    """True if a kill has just left something half written."""
    return any(".draft" in path.name or ".partial" in path.name for path in out.rglob("*")) or any(
        not (folder / "trainer" / "complete.json").is_file() for folder in out.glob("checkpoints/step-*")
    )


def harass(case: Case, inputs: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill a piece of work so many times, in as many rounds as that takes; what was found."""
    here, chance = inputs / case.name.replace(" ", "-").replace(",", ""), random.Random(seed)
    here.mkdir()
    out = here / "out"
    words = command(case, inputs, out)
    began = time.monotonic()
    status, operations = start(words, here)
    assert status == 0, f"{case.name}: status {status}, see {here}/log.txt"
    seconds, wanted = time.monotonic() - began, contents(out)
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    while tally["kills"] < kills:
        shutil.rmtree(out)
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            how: dict[str, Any] = {}
            if tally["kills"] < kills:
                by_clock = chance.random() < 0.5
                how = {"kill_after": chance.uniform(0, seconds)} if by_clock else {}
                how = how or {"kill_at": chance.randint(1, max(2, operations * 3 // 4))}
            status, _ = start(words, here, **how)
            if status == -signal.SIGKILL:
                tally["kills"] += 1
                tally["by the clock" if "kill_after" in how else "at a file operation"] += 1
                tally["left something half written"] += in_a_save(out)
        tally["rounds"] += 1
        said = (here / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        found = (
            [f"status {status}: {said[-1] if said else ''}"] if status else differences(wanted, contents(out))
        )
        wrong += [f"{case.name}, round {tally['rounds']}: {one}" for one in found]
        print(
            f"{case.name}: {tally['kills']} of {kills} kills, {tally['rounds']} rounds, {len(wrong)} differences",
            *found,
            sep="\n  ",
            flush=True,
        )
        if found:
            shutil.copytree(out, here / f"round-{tally['rounds']}")
    shutil.rmtree(out)
    figures = {"undisturbed_seconds": round(seconds, 2), "file_operations": operations, "files": len(wanted)}
    return figures | dict(sorted(tally.items())) | {"differences": wrong}


def main() -> None:
    """Kill, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1, help="kinds of work that are killed at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name holds this")
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
        found = {name: job.result() for name, job in jobs.items()}
    totals = {
        "kills": sum(one["kills"] for one in found.values()),
        "differences": sum(len(one["differences"]) for one in found.values()),
    }
    if totals["differences"]:
        print(f"what differs is kept in {here}")
    else:
        shutil.rmtree(here)
    print(json.dumps(found, indent=1))
    print(machine.write("kills", {"seed": args.seed} | totals | {"cases": found}, args.out))
    if totals["differences"]:
        sys.exit(1)


def import_everything() -> None:
    """Once, before the forks. And small pieces, so that little text has many; and pictures of no size."""
    import matplotlib.pyplot  # noqa: F401
    import torch
    from matplotlib.figure import Figure

    from gptworks.commands import finetune, instruct, prepare, pretrain  # noqa: F401
    from gptworks.data import pieces
    from gptworks.evaluate import report, training  # noqa: F401
    from gptworks.report import page, plots  # noqa: F401
    from gptworks.train import classifying, instructing, pretraining, session  # noqa: F401

    torch.set_num_threads(1)
    pieces.PIECE_BYTES = 4000
    Figure.savefig = _picture  # type: ignore[method-assign]


def _picture(_: object, to: Any, **__: object) -> None:
    """In the place of drawing one."""
    if isinstance(to, str | os.PathLike):
        Path(to).write_bytes(b"<svg></svg> IEND\xaeB`\x82")
    else:
        to.write("<svg></svg>" if isinstance(to, io.TextIOBase) else b"<svg></svg>")


if __name__ == "__main__":
    main()
