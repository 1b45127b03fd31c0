"""Memory runs out, on purpose, wherever it can: losses and weights stay those of a run with enough memory."""

import json
import shutil

import numpy as np
import pytest
import torch

from gptworks import files, runs
from gptworks.cli import main
from gptworks.errors import ResourceError
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.processes import World
from gptworks.recipe import ModelOptions, OptimOptions
from gptworks.train import optim, out_of_memory, parallel, tasks
from gptworks.train.precision import Precision
from gptworks.train.tasks import language_batch, token_loss
from gptworks.train.trainer import Plan, Trainer

pytestmark = pytest.mark.e2e

CPU = torch.device("cpu")
ROWS, CONTEXT = 8, 16


class Rows:
    """Random ids that depend on the row only; more than `most` rows run out of memory."""

    def __init__(self, most=None):
        self.most, self.seen = most, []

    def rows(self, step):
        return np.arange(step * ROWS, (step + 1) * ROWS)

    def batch(self, rows):
        ids = [
            torch.randint(60, (CONTEXT + 1,), generator=torch.Generator().manual_seed(row)) for row in rows
        ]
        return language_batch(torch.stack(ids))

    def loss(self, model, batch):
        self.seen.append(len(batch["ids"]))
        if self.most and len(batch["ids"]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return token_loss(model, batch)


def trainer_of(task, *, kind="adamw", micro_batch=ROWS, steps=4):
    model = build(resolve_config(ModelOptions(n_layer=2, n_head=2, n_embd=32, context=CONTEXT), 60), seed=0)
    plan = Plan(steps, micro_batch, 0, Precision("fp32", CPU))
    return Trainer(model, task, plan, OptimOptions(name=kind, lr=1e-2), World(0, 1, CPU))


def curve(trainer):
    losses = []
    trainer.fit(lambda report: losses.append(report.loss.item()))
    return losses


def same(trainer, other):
    for name, param in trainer.model.named_parameters():
        torch.testing.assert_close(
            param, dict(other.model.named_parameters())[name], rtol=0, atol=2e-5, msg=name
        )


@pytest.fixture(scope="module")
def enough():
    trainer = trainer_of(Rows())
    return curve(trainer), trainer


def test_out_of_memory_in_the_forward_pass_retries_with_half_as_many_rows(enough):
    losses, whole = enough
    trainer = trainer_of(Rows(most=2))
    assert curve(trainer) == pytest.approx(losses, rel=0, abs=1e-5)
    assert trainer.micro_batch == 2
    assert trainer.task.seen[:6] == [8, 4, 2, 2, 2, 2]
    assert set(trainer.task.seen[6:]) == {
        2
    }  # batches read ahead are split again, so memory runs out only once
    same(trainer, whole)


def test_out_of_memory_in_the_backward_pass_discards_the_partial_gradients(enough, monkeypatch):
    losses, whole = enough
    trainer = trainer_of(Rows(), micro_batch=4)
    calls = iter(range(100))

    def explode(grad):
        if next(calls) == 3:  # in the second micro-batch of the second step
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return grad

    trainer.model.transformer.h[0].mlp.c_fc.weight.register_hook(explode)
    assert curve(trainer) == pytest.approx(losses, rel=0, abs=1e-5)
    assert trainer.micro_batch == 2
    same(trainer, whole)


@pytest.mark.parametrize("where", ["AdamW", "Muon", "inside Muon", "inside AdamW"])
def test_out_of_memory_in_the_optimizer_finishes_the_update_and_does_not_apply_it_twice(where, monkeypatch):
    whole = trainer_of(Rows(), kind="muon")
    losses = curve(whole)
    trainer = trainer_of(Rows(), kind="muon")
    calls = iter(range(1000))

    def explode_at(number, real):
        def call(*args, **more):
            if next(calls) == number:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(*args, **more)

        return call

    if where == "inside Muon":  # when some shapes are done, and others not
        monkeypatch.setattr(optim, "orthogonalize", explode_at(2, optim.orthogonalize))
    elif where == "inside AdamW":  # while the moments are made
        monkeypatch.setattr(torch, "zeros_like", explode_at(13, torch.zeros_like))
    else:
        which = trainer.optimizers[where == "AdamW"]
        monkeypatch.setattr(which, "step", explode_at(1, which.step))
    assert curve(trainer) == losses
    assert next(calls) > 3
    assert trainer.micro_batch == ROWS
    same(trainer, whole)


def test_optimizer_state_that_never_fits_ends_with_an_error_that_names_sharding(monkeypatch):
    trainer = trainer_of(Rows())

    def explode():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.optimizers[0], "step", explode)
    with pytest.raises(ResourceError, match=r"--train.parallel zero1, then fsdp"):
        curve(trainer)


def test_after_one_row_comes_activation_checkpointing_and_then_an_error_that_names_zero_and_fsdp(enough):
    losses, whole = enough

    class Fuller(Rows):
        def loss(self, model, batch):
            if not parallel.uses_activation_checkpointing(model):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().loss(model, batch)

    trainer = trainer_of(Fuller())
    assert curve(trainer) == pytest.approx(losses, rel=0, abs=1e-5)
    assert (trainer.micro_batch, parallel.uses_activation_checkpointing(trainer.model)) == (1, True)
    same(trainer, whole)

    class Full(Rows):
        def loss(self, model, batch):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ResourceError, match=r"one row .*zero1, then fsdp"):
        curve(trainer_of(Full()))


def test_other_errors_are_not_caught():
    class Broken(Rows):
        def loss(self, model, batch):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        curve(trainer_of(Broken()))


def test_one_of_several_processes_ends_with_an_error_that_names_the_options():
    trainer = trainer_of(Rows())
    trainer.world = World(0, 2, CPU)
    with pytest.raises(ResourceError, match=r"--resume .*--train.micro-batch below 8"):
        out_of_memory.reduce_memory(trainer)


def test_an_evaluation_continues_with_fewer_rows_and_sees_every_row_once():
    seen, failed = [], []

    def work(rows):
        if len(rows) > 3:
            failed.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.extend(rows)
        return sum(rows)

    assert sum(out_of_memory.map_batches(list(range(20)), 16, work)) == sum(range(20))
    assert seen == list(range(20))
    assert failed == [16, 8, 4]
    with pytest.raises(ResourceError, match=r"--model\.context"):
        list(out_of_memory.map_batches([9], 4, lambda rows: 1 / 0 if len(rows) > 1 else work([0] * 4)))


@pytest.fixture
def dataset(tmp_path, byte_tokenizer):
    byte_tokenizer.save(tmp_path / "bytes")
    (tmp_path / "text.txt").write_text("".join(f"the {n} cats sat on {n * 7} mats. " for n in range(900)))
    line = f"prepare --sources {tmp_path / 'text.txt'} --tokenizer {tmp_path / 'bytes'} --workers 1"
    assert (
        main(
            [*line.split(), "--out", str(tmp_path / "set"), "--val-fraction", "0.1", "--val-split-by", "tail"]
        )
        == 0
    )
    return tmp_path / "set"


def test_a_run_reports_and_records_the_smaller_micro_batch_and_resumes_with_it(
    dataset, tmp_path, monkeypatch, capfd
):
    shape = "--model.n-layer 2 --model.n-head 2 --model.n-embd 32 --model.context 16 --train.precision fp32"
    line = f"pretrain --data {dataset} {shape} --train.batch-tokens 128 --train.max-steps 12 --eval.every 4"
    line += " --save.every 3"
    assert main([*line.split(), "--out", str(tmp_path / "enough")]) == 0
    real, evaluated = tasks.token_loss, []

    def tight(model, batch):
        if model.training and len(batch["ids"]) > 4 and torch.initial_seed() in late:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if not model.training and len(batch["ids"]) > 3:
            evaluated.append(len(batch["ids"]))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, batch)

    from gptworks.data.order import derive_seed
    from gptworks.train import evaluators

    late = {derive_seed(0, step, 0) for step in range(4, 12)}
    monkeypatch.setattr(tasks, "token_loss", tight)
    monkeypatch.setattr(evaluators, "token_loss", tight)
    run = tmp_path / "tight"
    capfd.readouterr()
    assert main([*line.split(), "--out", str(run)]) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "out of memory" in line]
    assert len(lines) == 1
    assert "step 5" in lines[0]
    assert "4 rows" in lines[0]
    assert evaluated
    rows, wanted = (
        files.read_rows(run / "metrics.jsonl"),
        files.read_rows(tmp_path / "enough" / "metrics.jsonl"),
    )
    for row, want in zip(rows, wanted, strict=True):
        for name in {"loss", "val_loss"} & want.keys():
            assert row[name] == pytest.approx(want[name], rel=0, abs=1e-5)
    assert [row["micro_batch"] for row in rows if "loss" in row] == [8] * 4 + [4] * 8

    last = run / "checkpoints" / "step-000012"
    before = (last / "model.safetensors").read_bytes()
    for step in (9, 12):  # back to before, and after: one checkpoint was written with 8 rows, one with 4
        shutil.rmtree(run / "checkpoints" / f"step-{step:06}", ignore_errors=step == 9)
    kept = runs.Run(run).checkpoints()[-1] if runs.Run(run).checkpoints() else None
    assert main([*line.split(), "--out", str(run), "--resume"]) == 0
    assert (last / "model.safetensors").read_bytes() == before
    if kept is not None:
        state = json.loads((kept.path / runs.STATE).read_text())["cut"]
        assert state == {"planned": 8, "micro_batch": 4 if kept.step > 4 else 8, "checkpointed": False}
