"""`prepare` killed, out of disk, or with a worker lost: nothing finished is lost, nothing is done twice."""

import dataclasses
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptworks.data import chunk_files, encoding, work_units
from gptworks.data.dataset import Dataset
from gptworks.data.prepare import prepare
from gptworks.errors import DataError, ResourceError
from gptworks.recipe import PrepareOptions

pytestmark = pytest.mark.e2e

SCRIPT = """
import json, sys, time
from pathlib import Path
from gptworks.data import work_units
from gptworks.data.prepare import prepare
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer

if __name__ == "__main__":
    work_units.UNIT_BYTES = 400
    corpus, vocabulary, out, workers = sys.argv[1:]
    options = PrepareOptions(sources=(corpus,), val_fraction=0.1, dedup=True, shard_tokens=900, workers=int(workers))
    print("begin", flush=True)
    def report(progress):
        print(progress.found_bytes, flush=True)
        time.sleep(0.005)
    prepare(options, Tokenizer.load(vocabulary), Path(out), report)
"""


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def command(corpus, tokenizer, tmp_path):
    """The same `prepare`, in a process of its own, into any folder."""
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "script.py").write_text(SCRIPT)

    def start(out: Path, workers: int) -> subprocess.Popen:
        words = [sys.executable, tmp_path / "script.py", corpus, tmp_path / "tokenizer", out, str(workers)]
        source = Path(prepare.__code__.co_filename).parents[2]
        environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)

    return start


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc for the workers")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_anywhere_the_result_is_the_same_to_the_byte(workers, command, tmp_path):
    straight = command(tmp_path / "straight", workers)
    n_reports = len(straight.communicate(timeout=60)[0].splitlines())
    assert straight.returncode == 0
    chance = random.Random(workers)
    reused = []
    for _ in range(4):
        process = command(tmp_path / "killed", workers)
        assert process.stdout
        heard = [process.stdout.readline() for _ in range(chance.randrange(2, n_reports // 3))]
        processes = children(process.pid) if workers > 1 else []
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reused.append(int(heard[-1] or 0) if heard[-1].strip().isdigit() else 0)
        assert not (tmp_path / "killed" / "manifest.json").exists()
        with pytest.raises(DataError, match="killed is not finished"):
            Dataset.open(tmp_path / "killed")
        deadline = time.monotonic() + 20
        while any(map(alive, processes)):  # a worker leaves when its parent is gone
            assert time.monotonic() < deadline
            time.sleep(0.05)
    last = command(tmp_path / "killed", workers)
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert max(reused) > 0
    assert files(tmp_path / "straight") == files(tmp_path / "killed")


def options(*sources: Path, **changes) -> PrepareOptions:
    return PrepareOptions(sources=tuple(map(str, sources)), **{"workers": 1, **changes})


class Interrupted(BaseException):
    """Stands for a kill in this process."""


def stop_after(count: int):
    def report(_: object) -> None:
        nonlocal count
        count -= 1
        if count == 0:
            raise Interrupted

    return report


def test_finished_work_units_are_not_done_again(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    with pytest.raises(Interrupted):
        prepare(options(corpus), tokenizer, tmp_path / "out", stop_after(5))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/unfinished").glob("*.part")}
    assert len(kept) == 5
    done = []
    monkeypatch.setattr(
        encoding.Encoder,
        "__call__",
        lambda self, unit, do=encoding.Encoder.__call__: done.append(1) or do(self, unit),
    )
    resumed = prepare(options(corpus), tokenizer, tmp_path / "out")
    n_done = len(done)
    done.clear()
    straight = prepare(options(corpus), tokenizer, tmp_path / "straight")
    assert n_done == len(done) - 5
    assert resumed.fingerprint == straight.fingerprint


def test_a_truncated_chunk_file_is_made_again(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    with pytest.raises(Interrupted):
        prepare(options(corpus), tokenizer, tmp_path / "out", stop_after(5))
    for number, path in enumerate(sorted((tmp_path / "out/unfinished").glob("*.part"))):
        path.write_bytes(path.read_bytes()[: [0, 16, 40, -1, None][number]])
    resumed = prepare(options(corpus), tokenizer, tmp_path / "out")
    straight = prepare(options(corpus), tokenizer, tmp_path / "straight")
    assert resumed.fingerprint == straight.fingerprint


def test_unfinished_work_on_other_inputs_is_refused_and_kept(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    with pytest.raises(Interrupted):
        prepare(options(corpus), tokenizer, tmp_path / "out", stop_after(5))
    with pytest.raises(DataError, match=r"other inputs \(changed: prepare\.separator\)"):
        prepare(options(corpus, separator="none"), tokenizer, tmp_path / "out")
    assert len(list((tmp_path / "out/unfinished").glob("*.part"))) == 5


def test_after_a_bad_line_skip_reuses_finished_work(corpus, texts, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    with corpus.open("a") as file:
        file.write("broken\n")
    with pytest.raises(DataError, match=rf"corpus\.jsonl:{len(texts) + 1}: invalid JSON"):
        prepare(options(corpus), tokenizer, tmp_path / "out")
    assert any((tmp_path / "out/unfinished").glob("*.part"))
    heard = []
    dataset = prepare(
        options(corpus, on_error="skip"), tokenizer, tmp_path / "out", lambda p: heard.append(p.found_bytes)
    )
    assert heard[-1] > 0
    assert dataset.manifest["sources"][0]["dropped"] == {"invalid_json": 1}


def test_a_folder_with_something_else_is_not_touched(corpus, tokenizer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="out is not empty"):
        prepare(options(corpus), tokenizer, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    tokenizer.save(tmp_path / "tokenizer")
    before = files(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="tokenizer is not empty"):
        prepare(options(corpus), tokenizer, tmp_path / "tokenizer")
    assert files(tmp_path / "tokenizer") == before


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_while_reading(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    count = 0

    def write(*arguments):
        nonlocal count
        count += 1
        return full_disk() if count == 4 else real(*arguments)

    real = chunk_files.write
    monkeypatch.setattr(chunk_files, "write", write)
    with pytest.raises(
        ResourceError, match=r"the disk of .*out is full \(.* free\): it needs about .* MB more\. Free"
    ):
        prepare(options(corpus), tokenizer, tmp_path / "out")
    assert len(list((tmp_path / "out/unfinished").glob("*.part"))) == 3
    heard = []
    resumed = prepare(options(corpus), tokenizer, tmp_path / "out", lambda p: heard.append(p.found_bytes))
    assert heard[-1] > 0
    assert resumed.fingerprint == prepare(options(corpus), tokenizer, tmp_path / "straight").fingerprint


def test_a_disk_that_fills_while_writing_shards(corpus, tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(
            os, "fsync", lambda _: full_disk() if (tmp_path / "out/train-00000.bin").exists() else None
        )
        with pytest.raises(ResourceError, match="is full"):
            prepare(options(corpus, shard_tokens=1000), tokenizer, tmp_path / "out")
    with pytest.raises(DataError, match="is not finished"):
        Dataset.open(tmp_path / "out")
    resumed = prepare(options(corpus, shard_tokens=1000), tokenizer, tmp_path / "out")
    assert (
        resumed.fingerprint
        == prepare(options(corpus, shard_tokens=1000), tokenizer, tmp_path / "straight").fingerprint
    )


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # a Dataset may still be mapped


@pytest.mark.parametrize("workers", [1, 2])
def test_a_real_disk_that_is_too_small(workers, small_disk, tokenizer, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 20_000)
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n in range(10) for text in texts))
    chosen = options(path, workers=workers)
    with pytest.raises(ResourceError, match=r"the disk of .* is full .*needs about (\d+\.\d) MB more"):
        prepare(chosen, tokenizer, small_disk / "out")
    kept = list((small_disk / "out/unfinished").glob("*.part"))
    assert kept
    assert not list((small_disk / "out").rglob("*.draft"))
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    heard = []
    resumed = prepare(chosen, tokenizer, small_disk / "out", lambda p: heard.append(p.found_bytes))
    assert heard[-1] > 0
    assert resumed.fingerprint == prepare(options(path), tokenizer, tmp_path / "straight").fingerprint


class Dying:
    """Kills the process that does the fourth work unit."""

    def __init__(self, encoder: encoding.Encoder) -> None:
        self.encoder = encoder

    def __call__(self, unit: work_units.WorkUnit) -> chunk_files.Summary:
        if unit.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.encoder(unit)


def test_a_worker_that_is_killed_is_noticed(corpus, tokenizer, tmp_path, monkeypatch):
    from gptworks.data import prepare as module

    monkeypatch.setattr(work_units, "UNIT_BYTES", 400)
    workers = module.Workers
    with monkeypatch.context() as patched:
        patched.setattr(module, "Workers", lambda encoder, n: workers(Dying(encoder), n))
        with pytest.raises(ResourceError, match=r"exit code -9"):
            prepare(options(corpus, workers=2), tokenizer, tmp_path / "out")
    resumed = prepare(dataclasses.replace(options(corpus), workers=2), tokenizer, tmp_path / "out")
    assert resumed.fingerprint == prepare(options(corpus), tokenizer, tmp_path / "straight").fingerprint
