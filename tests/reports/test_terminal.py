"""Progress in the terminal."""

import io

import pytest
from rich.console import Console

from gptworks.reports import terminal


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


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_a_bar_is_shown_once_it_takes_long(monkeypatch, delay):
    """Pytest captures stdout, so it counts as a file."""
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True))
    monkeypatch.setattr(terminal, "BAR_DELAY", delay)
    with terminal.ProgressBar("classifying", 600) as bar:
        bar.advance(256)
        bar.advance(256)
    assert ("512/600" in screen.getvalue()) == (delay == 0)


@pytest.mark.parametrize(("step", "said"), [(90, "  val 6.254"), (80, ""), (100, "")])
def test_a_step_that_is_evaluated_does_not_show_an_earlier_validation_loss(lines, step, said):
    display = terminal.TrainingDisplay(100, 0, eval_every=40)
    display.step({"step": 40, "val_loss": 6.254})
    display.last_line = 0.0
    display.step({"step": step, "tokens": 1000, "loss": 6.111, "targets": 8, "tokens_per_second": 1000.0})
    assert lines[-1].startswith(f"step {step}/100  loss 6.111{said}  1,000 tok/s")
