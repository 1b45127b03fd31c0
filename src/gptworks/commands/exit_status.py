"""Messages and exit statuses for a signal that ends a command at once, because there is nothing to save."""

import signal

from gptworks.reports import terminal

STOPPED = 75
"""Exit status of a run that was stopped and can be resumed (sysexits.h: EX_TEMPFAIL)."""


def before_the_first_step(number: int) -> int:
    """Exit status while a command starts up."""
    terminal.say(f"stopped by {_name(number)} before the first step: nothing was changed")
    return _status(number)


def after_the_last_step(number: int) -> int:
    """Exit status of a run whose steps are saved, while it is being scored and plotted."""
    terminal.say(
        f"stopped by {_name(number)} after the last save; the same command with --resume does the rest"
    )
    return STOPPED


def between_runs(number: int) -> int:
    """Exit status of a command that makes several runs: finished ones are not repeated."""
    terminal.say(f"stopped by {_name(number)}; the same command with --resume continues")
    return _status(number)


def _status(number: int) -> int:
    """The shell's status for Ctrl-C; for a scheduler's signal, one that says the command may be started again."""
    return 128 + number if number == signal.SIGINT else STOPPED


def _name(number: int) -> str:
    return signal.Signals(number).name
