"""Other engines make the Dataset that `prepare` makes by itself: the same documents, shards and fingerprint."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptworks.cli import main
from gptworks.data import engines
from gptworks.data.encoding import Encoder
from gptworks.data.prepare import prepare
from gptworks.data.sources import find_sources
from gptworks.recipe import PrepareOptions

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
KINDS = ["datatrove", "ray"]


def write_texts(folder, files, documents):
    folder.mkdir()
    chance = random.Random(0)
    words = [f"w{number}" for number in range(2000)]
    for number in range(files):
        rows = [{"text": " ".join(chance.choices(words, k=300))} for _ in range(documents)]
        rows += rows[: documents // 10]  # repeats, for dedup
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{number}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """20 MB: seconds of work, in a dozen work units."""
    return write_texts(tmp_path_factory.mktemp("texts") / "texts", 6, 2000)


def made(folder):
    """Every file of a Dataset, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def words(texts, bpe, out, engine, more="--dedup"):
    return shlex.split(
        f"prepare --sources {texts} --tokenizer {bpe} --out {out} --workers 2 --engine {engine} {more}"
    )


@pytest.fixture(scope="module")
def bpe(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe") / "bpe"
    line = f"tokenizer train --sources {texts / '0.jsonl'} --vocab-size 300 --out {folder}"
    assert main(shlex.split(line)) == 0
    return folder


@pytest.fixture(scope="module")
def plain(texts, bpe, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "set"
    assert main(words(texts, bpe, out, "local")) == 0
    return out


def test_tasks_in_any_order_leave_the_chunk_files_that_prepare_makes(byte_tokenizer, tmp_path, monkeypatch):
    sources = write_texts(tmp_path / "texts", 3, 40)
    options = PrepareOptions(sources=(str(sources),), dedup=True, val_fraction=0.2)
    alone = prepare(options, byte_tokenizer, tmp_path / "alone")

    def run(encoder: Encoder, found, workers):
        step = engines.Step(found, encoder)
        for rank in (2, 0, 1):
            assert list(step(None, rank, 3)) == []

    monkeypatch.setattr(engines, "run", run)
    monkeypatch.setattr(engines, "check", lambda encoder, found: None)
    shared = prepare(
        PrepareOptions(**vars(options) | {"engine": "datatrove"}), byte_tokenizer, tmp_path / "shared"
    )
    assert shared.fingerprint == alone.fingerprint
    assert made(tmp_path / "shared") == made(tmp_path / "alone")


def test_every_work_unit_belongs_to_one_task(byte_tokenizer, tmp_path):
    sources = write_texts(tmp_path / "texts", 5, 3)
    options = PrepareOptions(sources=tuple(str(path) for path in sorted(sources.iterdir())))
    encoder = Encoder(options, byte_tokenizer, tmp_path)
    step = engines.Step(find_sources(options), encoder)
    every = {encoder.path(unit.source, unit.number) for unit in step.units()}
    for rank in range(3):
        before = set(tmp_path.glob("*.part"))
        list(step(None, rank, 3))
        assert len(set(tmp_path.glob("*.part")) - before) == (2, 2, 1)[rank]
    assert set(tmp_path.glob("*.part")) == every


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "--engine datatrove --limit 3",
            "--engine datatrove",
        ),
        ("--engine slurm", "--engine slurm needs --partition NAME"),
        ("--engine slurm --partition cpu", "sbatch"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(byte_tokenizer, tmp_path, capsys, monkeypatch, more, message):
    sources = write_texts(tmp_path / "texts", 1, 2)
    byte_tokenizer.save(tmp_path / "bytes")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = f"prepare --sources {sources} --tokenizer {tmp_path / 'bytes'} --out {tmp_path / 'set'} {more}"
    assert main(shlex.split(line)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("engine", "missing"), [("datatrove", "datatrove"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_says_so(
    byte_tokenizer, tmp_path, capsys, monkeypatch, engine, missing
):
    sources = write_texts(tmp_path / "texts", 1, 2)
    byte_tokenizer.save(tmp_path / "bytes")
    for name in (missing, "datatrove.executor" if missing == "datatrove" else missing):
        monkeypatch.setitem(sys.modules, name, None)
    line = f"prepare --sources {sources} --tokenizer {tmp_path / 'bytes'} --out {tmp_path / 'set'}"
    assert main(shlex.split(f"{line} --engine {engine}")) == 2
    assert "pip install 'gptworks[cluster]'" in capsys.readouterr().err


def needs(kind):
    pytest.importorskip("datatrove", reason="needs gptworks[cluster]")
    if kind == "ray":
        pytest.importorskip("ray", reason="needs gptworks[cluster]")


@pytest.mark.parametrize("kind", ["datatrove", pytest.param("ray", marks=pytest.mark.slow)])
def test_an_engine_s_dataset_is_the_plain_one_to_the_byte(texts, bpe, plain, tmp_path, kind):
    needs(kind)
    line = words(texts, bpe, tmp_path / "set", kind)
    subprocess.run([sys.executable, "-m", "gptworks", *line], env=ONE_THREAD, check=True, timeout=250)
    assert made(tmp_path / "set") == made(plain)
    assert not (tmp_path / "set" / "unfinished").exists()


def is_worker(process, kind):
    """Whether it does tasks: a child of datatrove's fork server, or an actor of Ray's."""
    line = " ".join(process.cmdline())
    if kind == "ray":
        return line.startswith("ray::") and "RankWorker" in line
    parent = process.parent()
    return "forkserver" in line and parent is not None and "forkserver" in " ".join(parent.cmdline())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_killed_in_the_middle_costs_at_most_its_own_work(texts, bpe, plain, tmp_path, kind):
    """datatrove's pool would wait for it forever: the command ends instead and can be resumed. Ray starts another."""
    needs(kind)
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "set"
    line = [sys.executable, "-m", "gptworks", *words(texts, bpe, out, kind)]
    process = subprocess.Popen(line, env=ONE_THREAD, stdout=-1, stderr=-1, text=True)
    try:
        deadline = time.monotonic() + 150
        while not list((out / "unfinished").glob("*.part")):
            assert process.poll() is None, process.communicate()[1][-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        victims = [child for child in children if is_worker(child, kind)]
        assert victims
        os.kill(victims[0].pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    if kind == "datatrove":
        assert process.returncode == 2, errors[-2000:]
        assert "signal 9" in errors
        assert "Traceback" not in errors
        subprocess.run(line, env=ONE_THREAD, check=True, timeout=250)
    else:
        assert process.returncode == 0, errors[-2000:]
    assert made(out) == made(plain)


SBATCH = """#!/bin/bash
# A stand-in for Slurm: runs an array's tasks one after another in the background, as sbatch would on a cluster.
for script; do :; done
cp "$script" "$SLURM_STANDIN/script-$$"
bash -n "$script" || exit 1
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
(
  for task in $(seq 0 "${array:-0}"); do
    SLURM_NODELIST=here SLURM_ARRAY_TASK_ID=$task bash "$SLURM_STANDIN/script-$$"
  done
  rm -f "$SLURM_STANDIN/running-$$"
) > "$SLURM_STANDIN/output-$$" 2>&1 &
touch "$SLURM_STANDIN/running-$$"
echo "Submitted batch job $$"
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the stand-in for Slurm is written for bash")
def test_slurm_s_script_does_the_work(texts, bpe, plain, tmp_path):
    """Without Slurm: `sbatch` runs the very script that datatrove submits, `srun` its command, `squeue` looks."""
    needs("slurm")
    stand_in = tmp_path / "slurm"
    stand_in.mkdir()
    tools = {
        "sbatch": SBATCH,
        "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done\nexec "$@"\n',
        "squeue": '#!/bin/bash\n[[ -e "$SLURM_STANDIN/running-${@: -1}" ]] && echo "job"\nexit 0\n',
        "scontrol": "#!/bin/bash\necho here\n",
    }
    for name, text in tools.items():
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    path = f"{stand_in}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = ONE_THREAD | {"PATH": path, "SLURM_STANDIN": str(stand_in)}
    line = words(
        texts, bpe, tmp_path / "set", "slurm", "--dedup --partition cpu --engine-tasks 3 --task-hours 1.5"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gptworks", *line],
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert made(tmp_path / "set") == made(plain)
    script = next(
        p.read_text() for p in sorted(stand_in.glob("script-*")) if "launch_pickled" in p.read_text()
    )
    assert "#SBATCH --partition=cpu" in script
    assert "#SBATCH --time=1:30:00" in script
    assert "#SBATCH --array=0-2%2" in script
    assert "#SBATCH --requeue" in script
