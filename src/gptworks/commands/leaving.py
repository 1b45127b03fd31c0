"""What is said, and the exit status, where a signal ends a command at once because there is nothing to save."""

import signal

from gptworks.report import terminal

STOPPED = 75
"""Exit status of a run that was asked to stop and can be resumed (sysexits.h: EX_TEMPFAIL)."""


def before_the_first_step(number: int) -> int:
    """Of a start that a signal ends."""
    terminal.say(f"stopped by {_name(number)} before the first step: nothing was begun, and nothing is lost")
    return _status(number)


def after_the_last_step(number: int) -> int:
    """Of a run whose steps are saved, and that still measures and draws."""
    terminal.say(
        f"stopped by {_name(number)} after the last save; the same command with --resume does what is left"
    )
    return STOPPED


def between_runs(number: int) -> int:
    """Of a command that makes several runs: those that are through are not made again."""
    terminal.say(f"stopped by {_name(number)}; the same command with --resume goes on")
    return _status(number)


def _status(number: int) -> int:
    """Of Ctrl-C what a shell has it; of a scheduler's signal, that the same command may be started again."""
    return 128 + number if number == signal.SIGINT else STOPPED


def _name(number: int) -> str:
    return signal.Signals(number).name
