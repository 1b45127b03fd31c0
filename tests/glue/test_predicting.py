"""Predictions: the same in any chunks, after a kill, and of STS-B in either order; QQP's in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gptworks.data.examples import Example
from gptworks.glue.predicting import CHUNK, GluePredictor
from gptworks.glue.tasks import TASKS
from gptworks.model import classifier
from gptworks.recipe import ClassifyOptions
from gptworks.train.precision import Precision
from tests.model.test_lora import tiny

FP32 = Precision("fp32", torch.device("cpu"))


def predictor(name, tokenizer):
    task = TASKS[name]
    model = classifier.with_head(tiny(init_std=0.3), task.labels, seed=1)
    with torch.no_grad():
        model.score.weight.mul_(8)
    return GluePredictor(model, tokenizer, task, ClassifyOptions(both_orders=task.regression), FP32)


def some(n=50, pairs=True):
    return [Example(f"row {i} {'a' * (i % 7)}", f"{i % 3} and" if pairs else None, "") for i in range(n)]


def written(here, file, examples, chunk=8, part="rte"):
    here.write(TASKS[part].tests[0], iter(examples), file, lambda _: None, chunk=chunk)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_chunks_change_nothing_and_rows_keep_their_order(byte_tokenizer, tmp_path):
    here = predictor("rte", byte_tokenizer)
    rows = written(here, tmp_path / "a", some(), chunk=8)
    assert rows == written(here, tmp_path / "b", some(), chunk=1000)
    assert [row["index"] for row in rows] == list(range(50))
    alone = [TASKS["rte"].labels[int(here([one])[0])] for one in some()]
    assert [row["label"] for row in rows] == alone
    assert len(set(alone)) == 2


def test_a_kill_costs_a_chunk(byte_tokenizer, tmp_path):
    here, file = predictor("rte", byte_tokenizer), tmp_path / "test.jsonl"
    whole = written(here, tmp_path / "whole", some())
    asked = []

    def killed():
        for one in some():
            if len(asked) == 27:
                raise KeyboardInterrupt
            asked.append(one)
            yield one

    with pytest.raises(KeyboardInterrupt):
        here.write(TASKS["rte"].tests[0], killed(), file, lambda _: None, chunk=8)
    with file.open("a") as lines:
        lines.write('{"index": 24, "lab')  # and a line that was cut off
    assert len(file.read_text().splitlines()) == 25
    assert written(here, file, some()) == whole


def test_sts_b_is_read_in_both_orders_and_stays_on_its_scale(byte_tokenizer, tmp_path):
    here = predictor("stsb", byte_tokenizer)
    turned = [Example(one.text_pair, one.text, "") for one in some()]
    assert here(some()) == pytest.approx(here(turned), abs=1e-5)
    straight = GluePredictor(here.model, byte_tokenizer, here.task, ClassifyOptions(), FP32)
    assert abs(straight(some()) - straight(turned)).max() > 0.01
    values = [row["value"] for row in written(here, tmp_path / "a", some(), part="stsb")]
    assert 0 <= min(values) <= max(values) <= 5


def test_rows_are_drawn_as_they_are_needed(byte_tokenizer, tmp_path, monkeypatch):
    """What is held of QQP's 390,965 pairs is one chunk."""
    here, drawn, held = predictor("rte", byte_tokenizer), [], []

    def rows():
        for one in some(64):
            drawn.append(one)
            yield one

    def count(_, examples):
        held.append((len(examples), len(drawn)))
        return np.zeros(len(examples), dtype=int)

    monkeypatch.setattr(GluePredictor, "__call__", count)
    here.write(TASKS["rte"].tests[0], rows(), tmp_path / "a", lambda _: None, chunk=16)
    assert held == [(16, 16), (16, 32), (16, 48), (16, 64)]


PEAK = """
import sys
from pathlib import Path
import torch
from gptworks.glue.data import GlueSource
from gptworks.glue.tasks import TASKS
from gptworks.text.tokenizer import Tokenizer
from gptworks.host_memory import peak_memory
from tests.glue.test_predicting import predictor

folder, file = map(Path, sys.argv[1:])
task = TASKS["qqp"]
rows = GlueSource(str(folder), folder / "copies").rows(task, task.tests[0])
predictor("qqp", Tokenizer.load(folder / "bytes")).write(task.tests[0], rows, file, print)
print(peak_memory(torch.device("cpu")) >> 20)
"""


@pytest.mark.slow
def test_all_of_qqp_takes_no_more_memory_than_two_chunks(byte_tokenizer, tmp_path, record_property):
    part, peaks = TASKS["qqp"].tests[0], []
    for n in (2 * CHUNK, part.rows):
        folder = tmp_path / str(n)
        (folder / "QQP").mkdir(parents=True)
        byte_tokenizer.save(folder / "bytes")
        lines = (f"{i}\thow is {'a ' * (i % 17)}{i}?\twhat is {'a ' * (i % 13)}{i}?\n" for i in range(n))
        with (folder / part.file).open("w") as tsv:
            tsv.write("id\tquestion1\tquestion2\n")
            tsv.writelines(lines)
        words = [sys.executable, "-c", PEAK, str(folder), str(folder / "test.jsonl")]
        root = Path(__file__).parents[2]
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
        with (folder / "test.jsonl").open() as made:
            assert sum(1 for _ in made) == n
        peaks.append(int(done.stdout.split()[-1]))
    record_property("peak resident MiB of two chunks, and of all rows", peaks)
    assert peaks[1] - peaks[0] < 24  # rows that were held would take half a KiB each, 180 MiB
