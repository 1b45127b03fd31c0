"""What is said while something runs."""

import pytest

from gptworks.report import terminal


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(terminal.err, "print", said.append)
    return said


@pytest.mark.parametrize("done", [0, 100])
def test_speed_and_time_left_are_those_of_many_steps(lines, done):
    display = terminal.TrainingDisplay(done + 100, done)
    for step in range(1, 51):  # a second each, the last one short and slow
        tokens = 1000 if step < 50 else 10
        row = {
            "step": done + step,
            "tokens": 10**6 * done + 1000 * (step - 1) + tokens,
            "loss": 1.0,
            "targets": 8,
        }
        display.last_line = 0.0
        display.step(row | {"tokens_per_second": float(tokens)})
    assert lines[-1] == f"step {done + 50}/{done + 100}  loss 1.000  967 tok/s  0:50 left"
