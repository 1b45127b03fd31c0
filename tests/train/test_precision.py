"""fp16 with a loss scale is for GPUs, but computes the same on a CPU, where it is tested here."""

import pytest
import torch

from gptworks.processes import World
from gptworks.recipe import OptimOptions
from gptworks.train.precision import LossScale, Precision
from gptworks.train.tasks import language_batch, token_loss
from gptworks.train.trainer import Plan, Trainer
from tests.model.test_lora import tiny


class SameRows:
    ids = torch.arange(4 * 9).reshape(4, 9) % 7

    def rows(self, step):
        return torch.arange(4).numpy()

    def batch(self, rows):
        return language_batch(self.ids[list(rows)])

    def loss(self, model, batch):
        return token_loss(model, batch)


def trained(name, steps, scale=None):
    """The trainer and its reports after `steps` steps."""
    plan = Plan(steps, 2, seed=0, precision=Precision(name, torch.device("cpu")))
    trainer = Trainer(tiny("gpt2"), SameRows(), plan, OptimOptions(lr=1e-2), World(0, 1, torch.device("cpu")))
    if scale is not None:
        assert trainer.loss_scale is not None
        trainer.loss_scale.scale.fill_(scale)
    reports = []
    trainer.fit(lambda report: bool(reports.append(report)))
    return trainer, reports


def test_fp16_follows_fp32_and_reports_the_unscaled_norm():
    half, full = trained("fp16", 8)[1], trained("fp32", 8)[1]
    assert [r.loss.item() for r in half] == pytest.approx([r.loss.item() for r in full], rel=1e-2)
    assert [r.grad_norm.item() for r in half] == pytest.approx([r.grad_norm.item() for r in full], rel=3e-2)
    assert not any(r.skipped.item() for r in half)


def test_an_overflow_skips_the_step_and_halves_the_scale():
    before = tiny("gpt2").state_dict()
    trainer, (report,) = trained("fp16", 1, scale=2.0**60)
    assert report.skipped.item() == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert trainer.loss_scale.scale.item() == 2.0**59


def test_the_scale_doubles_after_two_thousand_good_steps():
    scale = LossScale(torch.device("cpu"))
    for _ in range(1999):
        scale.update(torch.tensor(0.0))
    assert scale.scale.item() == 2.0**16
    scale.update(torch.tensor(0.0))
    assert (scale.scale.item(), scale.good_steps.item()) == (2.0**17, 0)
