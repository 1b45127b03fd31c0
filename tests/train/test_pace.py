"""The micro-batch that auto measures: the fastest, kept, and without a trace in the weights."""

import itertools

import pytest
import torch

from gptworks.cli import main
from gptworks.recipefile import load
from gptworks.train import pace
from tests.train.test_out_of_memory import ROWS, Rows, curve, dataset, trainer_of  # noqa: F401 - a fixture


def clocked(monkeypatch, seconds):
    """A clock by which a pass of so many rows takes `seconds[rows]`."""
    now = itertools.count()
    time, task = [0.0], Rows()

    class Slow(Rows):
        def loss(self, model, batch):
            time[0] += seconds[len(batch["ids"])] + next(now) * 1e-9
            return super().loss(model, batch)

    monkeypatch.setattr(pace.time, "perf_counter", lambda: time[0])
    return Slow() if seconds else task


@pytest.mark.parametrize(
    ("seconds", "best"),
    [({8: 8.0, 4: 3.0, 2: 1.6}, 4), ({8: 8.0, 4: 3.95, 2: 2.0}, 8), ({8: 8.0, 4: 5.0, 2: 1.0}, 2)],
)
def test_the_fastest_is_taken_unless_it_is_no_faster_than_noise(monkeypatch, seconds, best):
    trainer = trainer_of(clocked(monkeypatch, seconds))
    before = {name: param.clone() for name, param in trainer.model.named_parameters()}
    rates = pace.fastest(trainer)
    assert next(iter(rates)) == best
    assert rates[4] == pytest.approx(4 * 16 / seconds[4], rel=1e-3)
    for name, param in trainer.model.named_parameters():
        assert torch.equal(param, before[name])
        assert param.grad is None
    assert not any(optimizer.state for optimizer in trainer.optimizers)


def test_what_does_not_fit_is_not_taken():
    trainer = trainer_of(Rows(most=2))
    assert list(pace.fastest(trainer)) == [2]  # though the estimate said 8
    assert curve(trainer) == pytest.approx(curve(trainer_of(Rows())), rel=0, abs=1e-5)


def test_only_a_long_run_on_one_process_is_worth_it():
    trainer = trainer_of(Rows(), steps=100)
    tokens = ROWS * 16 * 100
    assert pace.worth_measuring(trainer, 2 * pace.LONG / tokens, 1.0)
    assert not pace.worth_measuring(trainer, 0.5 * pace.LONG / tokens, 1.0)


def test_the_choice_is_kept_in_the_run_and_the_losses_are_the_same(dataset, tmp_path, monkeypatch, capfd):  # noqa: F811
    monkeypatch.setattr(pace, "LONG", 0.0)
    monkeypatch.setattr(pace, "_rate", lambda trainer, rows: {16: 1.0, 8: 2.0, 4: 9.0}[rows])
    shape = "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 16 --train.precision fp32"
    line = (
        f"pretrain --data {dataset} {shape} --train.batch-tokens 256 --train.max-steps 4 --out {tmp_path}/run"
    )
    assert main(line.split()) == 0
    assert "4 rows at once, measured: 4: 9 tokens/s, 8: 2 tokens/s" in capfd.readouterr().err
    assert load(tmp_path / "run" / "recipe.toml").train.micro_batch == 4
    monkeypatch.setattr(pace, "_rate", lambda trainer, rows: 1 / 0)  # a run that goes on does not look again
    assert main([*line.replace("max-steps 4", "max-steps 6").split(), "--resume"]) == 0
    assert load(tmp_path / "run" / "recipe.toml").train.micro_batch == 4
