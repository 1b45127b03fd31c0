"""Signals, spikes and places in the data, each by itself."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptworks.commands import leaving
from gptworks.recipe import OptimOptions
from gptworks.train import guard
from gptworks.train.guard import (
    LEARNED,
    NOT_FINITE,
    OVERFLOW,
    SPIKE,
    Limits,
    Skip,
    Stop,
    Watch,
    place_in_data,
)
from gptworks.train.precision import Precision
from gptworks.train.trainer import Plan, Trainer
from gptworks.world import World
from tests.model.test_lora import tiny
from tests.train.test_precision import SameRows

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_asks_and_what_was_there_before_comes_back(name):
    number = getattr(signal, name)
    outside = signal.signal(number, signal.SIG_DFL)  # a shell may have us ignore it
    try:
        with Stop() as stop:
            assert stop.reason is None
            os.kill(os.getpid(), number)
            assert stop.reason == name
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


TWICE = """
import os, signal, sys, time
import gptworks.train.guard as guard
for number in guard.ASKS:
    signal.signal(number, signal.SIG_DFL)
with guard.Stop() as stop:
    for word in sys.argv[1:]:
        if word.isdigit():
            os.kill(os.getpid(), int(word))
        else:
            guard.ECHO_SECONDS = 0.0
    print(stop.reason)
sys.exit(75)
"""
INT, TERM, USR1 = (str(int(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ((TERM,), 75, "SIGTERM"),
        ((TERM, TERM), 128 + signal.SIGTERM, ""),
        ((INT, INT), 128 + signal.SIGINT, ""),
        ((INT, TERM), 75, "SIGINT"),  # torchrun hands a Ctrl-C on
        (("later", INT, TERM), 128 + signal.SIGTERM, ""),
        ((USR1, USR1, TERM), 75, "SIGUSR1"),  # a scheduler's warnings, and its limit
        ((USR1, TERM, TERM), 128 + signal.SIGTERM, ""),
    ],
)
def test_the_second_ask_is_at_once(words, status, reason):
    done = subprocess.run([sys.executable, "-c", TWICE, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (status, reason), done.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_before_there_is_anything_to_save_a_signal_is_said_and_ends_the_process(number, status, capsys):
    with pytest.raises(SystemExit) as left, guard.leaving_at_once(leaving.before_the_first_step):
        os.kill(os.getpid(), number)
    assert left.value.code == status
    assert f"stopped by {number.name} before the first step: nothing was begun" in capsys.readouterr().err


def test_between_the_runs_of_a_campaign_the_way_to_go_on_is_said(capsys):
    with pytest.raises(SystemExit), guard.leaving_at_once(leaving.between_runs):
        os.kill(os.getpid(), signal.SIGINT)
    assert "stopped by SIGINT; the same command with --resume goes on" in capsys.readouterr().err


def judged(watch, loss, norm, scale=None):
    scale = None if scale is None else torch.tensor(scale)
    return int(watch.judge(torch.tensor(loss), torch.tensor(norm), scale))


def test_what_is_not_finite_is_no_step_to_learn_from():
    watch = Watch(Limits(), CPU)
    nan, inf = float("nan"), float("inf")
    assert judged(watch, 3.0, 1.0) == LEARNED
    assert [judged(watch, *pair) for pair in ((nan, nan), (3.0, inf), (inf, 1.0))] == [NOT_FINITE] * 3


def test_a_gradient_too_large_for_fp16_is_no_fault_while_the_scale_can_go_down():
    watch = Watch(Limits(), CPU)
    inf = float("inf")
    assert judged(watch, 3.0, inf, 65536.0) == OVERFLOW
    assert judged(watch, 3.0, inf, 1.0) == NOT_FINITE
    assert judged(watch, inf, inf, 65536.0) == NOT_FINITE


def test_spikes_are_found_by_the_standard_deviations_that_numpy_gives():
    watch, limit, size = Watch(Limits(spike=3.0, spike_window=20), CPU), 3.0, 20
    chance = np.random.default_rng(0)
    made, found, wanted = [], [], []
    for _ in range(200):
        pair = chance.normal([3.0, 1.0], [0.1, 0.2]) + (chance.random(2) < 0.03) * chance.uniform(0, 2, 2)
        pair = pair.astype(np.float32)
        window = np.array(made[-size:], np.float64)
        high = len(made) >= size and bool((pair - window.mean(0) > limit * window.std(0, ddof=1)).any())
        made += [] if high else [pair]
        wanted.append(SPIKE if high else LEARNED)
        found.append(judged(watch, *map(float, pair)))
    assert found == wanted
    assert 3 < wanted.count(SPIKE) < 40


class NothingRead(TorchDispatchMode):
    """Fails where a number is read from the device, which would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_a_step_is_judged_and_left_out_without_waiting_for_the_device(name):
    limits = Limits(spike=3.0, spike_window=2)
    plan = Plan(6, 2, seed=0, precision=Precision(name, CPU), limits=limits)
    trainer = Trainer(tiny("gpt2"), SameRows(), plan, OptimOptions(lr=1e-2), World(0, 1, CPU))
    batches, reports = trainer.micro_batches(0), []
    with NothingRead():
        for _ in range(4):
            reports.append(trainer.train_step(batches))
        trainer.model.head_weight.data.fill_(float("nan"))
        reports.append(trainer.train_step(batches))
    assert [int(report.fault) for report in reports] == [LEARNED] * 4 + [NOT_FINITE]
    assert [int(report.skipped) for report in reports] == [0] * 4 + [1]
    with pytest.raises(AssertionError), NothingRead():
        reports[0].loss.item()


def test_a_window_comes_back_from_a_checkpoint():
    limits = Limits(spike=3.0, spike_window=5)
    one, other = Watch(limits, CPU), Watch(limits, CPU)
    for number in range(8):
        judged(one, 3.0 + 0.1 * (number % 3), 1.0)
    import json

    other.restore(json.loads(json.dumps(one.state())))
    assert torch.equal(one.values, other.values)
    assert judged(one, 9.0, 1.0) == judged(other, 9.0, 1.0) == SPIKE
    other.restore(None)
    assert judged(other, 9.0, 1.0) == LEARNED


def test_places_in_the_data_leave_out_what_was_skipped_and_nothing_else():
    assert [place_in_data(step, ()) for step in range(4)] == [0, 1, 2, 3]
    once = (Skip(2, 2, 5),)
    assert [place_in_data(step, once) for step in range(5)] == [0, 1, 5, 6, 7]
    twice = (*once, Skip(2, 5, 6), Skip(4, 8, 10))
    assert [place_in_data(step, twice) for step in range(6)] == [0, 1, 6, 7, 10, 11]
