"""Memory runs out, on purpose, wherever it can: the loss curve and the weights stay those of a run that had enough."""

import json
import shutil

import numpy as np
import pytest
import torch

from gptworks import runs
from gptworks.cli import main
from gptworks.errors import ResourceError
from gptworks.model.build import build
from gptworks.model.config import resolve
from gptworks.recipe import ModelOptions, OptimOptions
from gptworks.train import optim, out_of_memory, parallel, tasks
from gptworks.train.precision import Precision
from gptworks.train.tasks import language_batch, token_loss
from gptworks.train.trainer import Plan, Trainer
from gptworks.world import World

CPU = torch.device("cpu")
ROWS, CONTEXT = 8, 16


class Rows:
    """Random ids, the same for a step whoever asks."""

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
    model = build(resolve(ModelOptions(n_layer=2, n_head=2, n_embd=32, context=CONTEXT), 60), seed=0)
    plan = Plan(steps, micro_batch, 0, Precision("fp32", CPU))
    return Trainer(model, task, plan, OptimOptions(kind=kind, lr=1e-2), World(0, 1, CPU))


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


def test_in_the_forward_pass_the_update_is_done_again_with_half_as_many_rows(enough):
    losses, whole = enough
    trainer = trainer_of(Rows(most=2))
    assert curve(trainer) == pytest.approx(losses, rel=0, abs=1e-5)
    assert trainer.micro_batch == 2
    assert trainer.task.seen[:6] == [8, 4, 2, 2, 2, 2]
    assert set(trainer.task.seen[6:]) == {2}  # what was cut ahead is cut again, and nothing runs out twice
    same(trainer, whole)


def test_in_the_backward_pass_half_the_gradients_are_there_and_forgotten(enough, monkeypatch):
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
def test_in_the_optimizer_the_update_is_finished_and_not_done_twice(where, monkeypatch):
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
        monkeypatch.setattr(optim, "orthogonalise", explode_at(2, optim.orthogonalise))
    elif where == "inside AdamW":  # while the moments are made
        monkeypatch.setattr(torch, "zeros_like", explode_at(13, torch.zeros_like))
    else:
        which = trainer.optimizers[where == "AdamW"]
        monkeypatch.setattr(which, "step", explode_at(1, which.step))
    assert curve(trainer) == losses
    assert next(calls) > 3
    assert trainer.micro_batch == ROWS
    same(trainer, whole)


def test_a_state_that_never_fits_names_what_shares_it(monkeypatch):
    trainer = trainer_of(Rows())

    def explode():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.optimizers[0], "step", explode)
    with pytest.raises(ResourceError, match=r"optimizer's update.* --train.parallel zero1, then fsdp"):
        curve(trainer)


def test_after_one_row_come_activations_again_and_then_an_error_that_names_zero_and_fsdp(enough):
    losses, whole = enough

    class Fuller(Rows):
        def loss(self, model, batch):
            if not parallel.checkpoints_activations(model):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().loss(model, batch)

    trainer = trainer_of(Fuller())
    assert curve(trainer) == pytest.approx(losses, rel=0, abs=1e-5)
    assert (trainer.micro_batch, parallel.checkpoints_activations(trainer.model)) == (1, True)
    same(trainer, whole)

    class Full(Rows):
        def loss(self, model, batch):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ResourceError, match=r"one row at once .*zero1, then fsdp"):
        curve(trainer_of(Full()))


def test_other_errors_are_not_taken_for_it():
    class Broken(Rows):
        def loss(self, model, batch):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        curve(trainer_of(Broken()))


def test_one_of_several_processes_ends_with_what_to_do():
    trainer = trainer_of(Rows())
    trainer.world = World(0, 2, CPU)
    with pytest.raises(ResourceError, match=r"--resume and a smaller --train.micro-batch than 8"):
        out_of_memory.take_less(trainer)


def test_an_evaluation_goes_on_with_fewer_rows_and_sees_every_row_once():
    seen, failed = [], []

    def work(rows):
        if len(rows) > 3:
            failed.append(len(rows))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.extend(rows)
        return sum(rows)

    assert sum(out_of_memory.in_pieces(list(range(20)), 16, work)) == sum(range(20))
    assert seen == list(range(20))
    assert failed == [16, 8, 4]
    with pytest.raises(ResourceError, match="one row is evaluated"):
        list(out_of_memory.in_pieces([9], 4, lambda rows: 1 / 0 if len(rows) > 1 else work([0] * 4)))


@pytest.fixture
def dataset(tmp_path, byte_tokenizer):
    byte_tokenizer.save(tmp_path / "bytes")
    (tmp_path / "text.txt").write_text("".join(f"the {n} cats sat on {n * 7} mats. " for n in range(900)))
    line = f"prepare --sources {tmp_path / 'text.txt'} --tokenizer {tmp_path / 'bytes'} --workers 1"
    assert (
        main([*line.split(), "--out", str(tmp_path / "set"), "--val-fraction", "0.1", "--val-by", "tail"])
        == 0
    )
    return tmp_path / "set"


def test_a_run_says_it_records_it_and_goes_on_exactly_so(dataset, tmp_path, monkeypatch, capfd):
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
    said = [text for text in capfd.readouterr().err.splitlines() if "memory ran out" in text]
    assert said == ["memory ran out in step 5: it was done again with 4 rows at once; the update is the same"]
    assert evaluated
    rows, wanted = (
        runs.read_rows(run / "metrics.jsonl"),
        runs.read_rows(tmp_path / "enough" / "metrics.jsonl"),
    )
    for row, want in zip(rows, wanted, strict=True):
        for name in {"loss", "val_loss"} & want.keys():
            assert row[name] == pytest.approx(want[name], rel=0, abs=1e-5)
    assert [row["micro_batch"] for row in rows if "loss" in row] == [8] * 4 + [4] * 8

    last = run / "checkpoints" / "step-000012"
    before = (last / "model.safetensors").read_bytes()
    for step in (9, 12):  # back to before, and after: one checkpoint was written with 8 rows, one with 4
        shutil.rmtree(run / "checkpoints" / f"step-{step:06}", ignore_errors=step == 9)
    kept = runs.checkpoints(run)[-1] if runs.checkpoints(run) else None
    assert main([*line.split(), "--out", str(run), "--resume"]) == 0
    assert (last / "model.safetensors").read_bytes() == before
    if kept is not None:
        state = json.loads((kept.path / runs.STATE).read_text())["cut"]
        assert state == {"planned": 8, "micro_batch": 4 if kept.step > 4 else 8, "checkpointed": False}
