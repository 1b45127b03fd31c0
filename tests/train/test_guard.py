"""Unit tests of signals, anomaly detection and data steps."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptworks.commands import exit_status
from gptworks.processes import World
from gptworks.recipe import OptimOptions
from gptworks.train import guard
from gptworks.train.guard import (
    GOOD,
    NOT_FINITE,
    OVERFLOW,
    SPIKE,
    AnomalyDetector,
    DataSkip,
    FaultPolicy,
    GracefulStop,
    data_step,
)
from gptworks.train.precision import Precision
from gptworks.train.trainer import Plan, Trainer
from tests.model.test_lora import tiny
from tests.train.test_precision import SameRows

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_requests_a_stop_and_the_previous_handler_comes_back(name):
    number = getattr(signal, name)
    outside = signal.signal(number, signal.SIG_DFL)  # a shell may have set SIG_IGN
    try:
        with GracefulStop() as stop:
            assert stop.reason is None
            os.kill(os.getpid(), number)
            assert stop.reason == name
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with GracefulStop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


TWICE = """
import os, signal, sys, time
import gptworks.train.guard as guard
for number in guard.STOP_SIGNALS:
    signal.signal(number, signal.SIG_DFL)
with guard.GracefulStop() as stop:
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
        ((INT, TERM), 75, "SIGINT"),  # torchrun forwards a Ctrl-C
        (("later", INT, TERM), 128 + signal.SIGTERM, ""),
        ((USR1, USR1, TERM), 75, "SIGUSR1"),  # a scheduler's warnings, then its limit
        ((USR1, TERM, TERM), 128 + signal.SIGTERM, ""),
    ],
)
def test_a_second_stop_signal_ends_the_process_at_once(words, status, reason):
    done = subprocess.run([sys.executable, "-c", TWICE, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (status, reason), done.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
def test_before_the_first_step_a_signal_ends_the_process_with_a_message(number, status, capsys):
    with pytest.raises(SystemExit) as left, guard.exit_on_signal(exit_status.before_the_first_step):
        os.kill(os.getpid(), number)
    assert left.value.code == status
    assert number.name in capsys.readouterr().err


def test_between_the_runs_of_a_campaign_a_signal_ends_the_process_and_names_resume(capsys):
    with pytest.raises(SystemExit), guard.exit_on_signal(exit_status.between_runs):
        os.kill(os.getpid(), signal.SIGINT)
    message = capsys.readouterr().err
    assert "SIGINT" in message
    assert "--resume" in message


def verdict(detector, loss, norm, scale=None):
    scale = None if scale is None else torch.tensor(scale)
    return int(detector.check(torch.tensor(loss), torch.tensor(norm), scale))


def test_a_non_finite_loss_or_norm_is_detected():
    detector = AnomalyDetector(FaultPolicy(), CPU)
    nan, inf = float("nan"), float("inf")
    assert verdict(detector, 3.0, 1.0) == GOOD
    assert [verdict(detector, *pair) for pair in ((nan, nan), (3.0, inf), (inf, 1.0))] == [NOT_FINITE] * 3


def test_an_fp16_overflow_is_not_a_fault_while_the_loss_scale_can_shrink():
    detector = AnomalyDetector(FaultPolicy(), CPU)
    inf = float("inf")
    assert verdict(detector, 3.0, inf, 65536.0) == OVERFLOW
    assert verdict(detector, 3.0, inf, 1.0) == NOT_FINITE
    assert verdict(detector, inf, inf, 65536.0) == NOT_FINITE


def test_spikes_are_detected_by_the_standard_deviations_that_numpy_computes():
    detector, limit, size = AnomalyDetector(FaultPolicy(spike_sigma=3.0, spike_window=20), CPU), 3.0, 20
    chance = np.random.default_rng(0)
    good, got, wanted = [], [], []
    for _ in range(200):
        pair = chance.normal([3.0, 1.0], [0.1, 0.2]) + (chance.random(2) < 0.03) * chance.uniform(0, 2, 2)
        pair = pair.astype(np.float32)
        window = np.array(good[-size:], np.float64)
        high = len(good) >= size and bool((pair - window.mean(0) > limit * window.std(0, ddof=1)).any())
        good += [] if high else [pair]
        wanted.append(SPIKE if high else GOOD)
        got.append(verdict(detector, *map(float, pair)))
    assert got == wanted
    assert 3 < wanted.count(SPIKE) < 40


class NoDeviceReads(TorchDispatchMode):
    """Fails if a value is read from the device, which would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_a_bad_step_is_detected_and_skipped_without_waiting_for_the_device(name):
    policy = FaultPolicy(spike_sigma=3.0, spike_window=2)
    plan = Plan(6, 2, seed=0, precision=Precision(name, CPU), fault_policy=policy)
    trainer = Trainer(tiny("gpt2"), SameRows(), plan, OptimOptions(lr=1e-2), World(0, 1, CPU))
    batches, reports = trainer.micro_batches(0), []
    with NoDeviceReads():
        for _ in range(4):
            reports.append(trainer.train_step(batches))
        trainer.model.head_weight.data.fill_(float("nan"))
        reports.append(trainer.train_step(batches))
    assert [int(report.verdict) for report in reports] == [GOOD] * 4 + [NOT_FINITE]
    assert [int(report.skipped) for report in reports] == [0] * 4 + [1]
    with pytest.raises(AssertionError), NoDeviceReads():
        reports[0].loss.item()


def test_the_window_is_restored_from_a_checkpoint():
    policy = FaultPolicy(spike_sigma=3.0, spike_window=5)
    one, other = AnomalyDetector(policy, CPU), AnomalyDetector(policy, CPU)
    for number in range(8):
        verdict(one, 3.0 + 0.1 * (number % 3), 1.0)
    import json

    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert torch.equal(one.values, other.values)
    assert verdict(one, 9.0, 1.0) == verdict(other, 9.0, 1.0) == SPIKE
    other.load_state_dict(None)
    assert verdict(other, 9.0, 1.0) == GOOD


def test_data_steps_leave_out_the_skipped_ones_and_nothing_else():
    assert [data_step(step, ()) for step in range(4)] == [0, 1, 2, 3]
    once = (DataSkip(2, 2, 5),)
    assert [data_step(step, once) for step in range(5)] == [0, 1, 5, 6, 7]
    twice = (*once, DataSkip(2, 5, 6), DataSkip(4, 8, 10))
    assert [data_step(step, twice) for step in range(6)] == [0, 1, 6, 7, 10, 11]
