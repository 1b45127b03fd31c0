"""Several processes on one machine, joined by gloo, as torchrun would start them but without its agent."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

LIMIT = 280
"""Seconds after which a test gives up."""


DEFAULTS = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
"""Signals that nohup and shells ignore in what they start in the background, with their usual handlers."""


def reset_signals():
    """Stop ignoring signals. As preexec_fn, for a child: it inherits what is ignored."""
    for name, handler in DEFAULTS.items():
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


@contextmanager
def default_signals():
    """No signal is ignored inside, however the tests were started. Also a decorator."""
    numbers = [getattr(signal, name) for name in DEFAULTS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    reset_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(size, *argv, env=None):
    """Processes of `python ARGV`, each told its rank."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    common = os.environ | {"OMP_NUM_THREADS": "1"} | address | (env or {})
    return [
        subprocess.Popen(
            [sys.executable, *argv],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes, limit=LIMIT):
    """[(exit status, output, errors)], by rank; whoever is still there after `limit` seconds is killed."""
    try:
        said = [process.communicate(timeout=limit) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def run(size, *argv):
    """Run them to their end, which must be a good one; their outputs."""
    done = finish(start(size, *argv))
    for rank, (status, _, errors) in enumerate(done):
        assert status == 0, f"process {rank} ended with {status}:\n{errors[-3000:]}"
    return [output for _, output, _ in done]
