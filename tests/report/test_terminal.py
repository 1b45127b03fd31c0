"""What is said while something runs."""

import io

import pytest
from rich.console import Console

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


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_a_bar_is_shown_once_it_takes_long(monkeypatch, patience):
    """Of what goes to stdout it shows nothing: that may be a file."""
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True))
    monkeypatch.setattr(terminal, "PATIENCE", patience)
    with terminal.Counting("classifying", 600) as counting:
        counting.advance(256)
        counting.advance(256)
    assert ("512/600" in screen.getvalue()) == (patience == 0)
