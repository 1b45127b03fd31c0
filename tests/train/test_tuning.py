"""train.micro_batch=auto measures: the fastest is used and kept, and measuring leaves no trace in the weights."""

import itertools

import pytest
import torch

from gptworks.cli import main
from gptworks.processes import World
from gptworks.recipefile import load
from gptworks.train import tuning
from tests.train.test_out_of_memory import ROWS, Rows, curve, dataset, trainer_of  # noqa: F401 - a fixture


def clocked(monkeypatch, seconds):
    """A task whose forward pass of n rows takes `seconds[n]` of a fake clock."""
    count, clock = itertools.count(), [0.0]

    class Slow(Rows):
        def loss(self, model, batch):
            clock[0] += seconds[len(batch["ids"])] + next(count) * 1e-9
            return super().loss(model, batch)

    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    return Slow()


def tuned(trainer):
    return tuning.tune_micro_batch(trainer, 1.0, 1e-9)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [({8: 8.0, 4: 3.0, 2: 1.6}, 4), ({8: 8.0, 4: 3.95, 2: 2.0}, 8), ({8: 8.0, 4: 5.0, 2: 1.0}, 2)],
)
def test_the_fastest_is_used_if_the_speedup_exceeds_noise(monkeypatch, seconds, best):
    trainer = trainer_of(clocked(monkeypatch, seconds))
    before = {name: param.clone() for name, param in trainer.model.named_parameters()}
    rates = tuned(trainer)
    assert next(iter(rates)) == trainer.micro_batch == trainer.plan.micro_batch == best
    assert rates[4] == pytest.approx(4 * 16 / seconds[4], rel=1e-3)
    for name, param in trainer.model.named_parameters():
        assert torch.equal(param, before[name])
        assert param.grad is None
    assert not any(optimizer.state for optimizer in trainer.optimizers)


def test_a_micro_batch_that_does_not_fit_is_not_used():
    trainer = trainer_of(Rows(most=2))  # though the estimate is 8
    assert list(tuned(trainer)) == [2]
    assert curve(trainer) == pytest.approx(curve(trainer_of(Rows())), rel=0, abs=1e-5)


def test_only_a_long_run_on_one_process_is_tuned():
    tokens = ROWS * 16 * 100
    long, short = 2 * tuning.MIN_RUN_SECONDS / tokens, 0.5 * tuning.MIN_RUN_SECONDS / tokens
    trainer = trainer_of(Rows(), steps=100)
    assert tuning.tune_micro_batch(trainer, long, 1.0)
    trainer = trainer_of(Rows(), steps=100)
    assert tuning.tune_micro_batch(trainer, short, 1.0) == {}
    trainer.world = World(0, 2, torch.device("cpu"))
    assert tuning.tune_micro_batch(trainer, long, 1.0) == {}
    assert trainer.micro_batch == ROWS


def test_the_choice_is_kept_in_the_run(dataset, tmp_path, monkeypatch, capfd):  # noqa: F811
    monkeypatch.setattr(tuning, "MIN_RUN_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "_tokens_per_second", lambda trainer, rows: {16: 1.0, 8: 2.0, 4: 9.0}[rows])
    shape = "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 16 --train.precision fp32"
    line = (
        f"pretrain --data {dataset} {shape} --train.batch-tokens 256 --train.max-steps 4 --out {tmp_path}/run"
    )
    assert main(line.split()) == 0
    assert "4: 9 tokens/s, 8: 2 tokens/s" in capfd.readouterr().err
    assert load(tmp_path / "run" / "recipe.toml").train.micro_batch == 4
    monkeypatch.setattr(
        tuning, "_tokens_per_second", lambda trainer, rows: 1 / 0
    )  # a resumed run does not measure again
    assert main([*line.replace("max-steps 4", "max-steps 6").split(), "--resume"]) == 0
    assert load(tmp_path / "run" / "recipe.toml").train.micro_batch == 4
