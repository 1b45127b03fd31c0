import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptworks.model import classifier
from gptworks.processes import World
from gptworks.recipe import OptimOptions
from gptworks.text.vocabulary import IGNORE
from gptworks.train.precision import Precision
from gptworks.train.tasks import ClassificationTask, LabelledTexts, label_loss
from gptworks.train.trainer import Plan, Trainer
from tests.conftest import END
from tests.model.test_lora import tiny


def some_texts(n=22, seed=0):
    chance = np.random.default_rng(seed)
    return [chance.integers(0, END, 1 + chance.integers(0, 20)) for _ in range(n)]


def a_task(batch=6, seed=0, targets=None, weights=None, max_row_tokens=0):
    rows = some_texts()
    targets = np.arange(len(rows)) % 3 if targets is None else targets
    return ClassificationTask(LabelledTexts(rows, targets, END, max_row_tokens), batch, seed, weights)


def test_every_epoch_sees_every_text_once_in_another_order():
    task = a_task()
    epochs = [np.concatenate([task.rows(4 * epoch + i) for i in range(4)]) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert task.steps_per_epoch == 4
    assert task.rows(5).tolist() == a_task().rows(5).tolist()
    assert task.rows(5).tolist() != a_task(seed=1).rows(5).tolist()


def test_the_texts_of_a_step_are_sorted_by_length():
    task = a_task()
    for step in range(4):
        lengths = [len(task.examples.rows[row]) for row in task.rows(step)]
        assert lengths == sorted(lengths)


def test_the_loss_is_the_sum_over_texts_that_are_not_ignored():
    scores = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    batch = {"targets": torch.tensor([0, IGNORE, 1])}
    wanted = F.cross_entropy(scores[:1], torch.tensor([0])) + F.cross_entropy(scores[2:], torch.tensor([1]))
    assert label_loss(scores, batch) == pytest.approx(wanted.item())
    weighted = label_loss(scores, batch, torch.tensor([1.0, 0.0]))
    assert weighted == pytest.approx(F.cross_entropy(scores[:1], torch.tensor([0])).item())


def test_regression_has_squared_errors_and_minus_100_is_a_valid_target():
    batch = {"targets": torch.tensor([0, 0, IGNORE]), "values": torch.tensor([-100.0, 1.0, 5.0])}
    scores = torch.tensor([[-99.0], [3.0], [0.0]])
    assert label_loss(scores, batch) == pytest.approx(1 + 4)
    assert label_loss(scores, batch, target_scale=2.0) == pytest.approx((1 + 4) / 4)


def test_the_outputs_of_both_orders_of_a_pair_are_averaged():
    model = classifier.with_head(tiny(), (), seed=0)
    rows, turned = some_texts(6), some_texts(6, seed=1)
    values = np.arange(6, dtype=np.float32)
    both = LabelledTexts(rows, values, END, 48, turned)
    outputs = [LabelledTexts(side, values, END).scores(model) for side in (rows, turned)]
    wanted = (outputs[0] + outputs[1]) / 2
    assert torch.equal(both.scores(model), wanted)
    assert not torch.allclose(outputs[0], outputs[1], atol=0.01)
    loss = ClassificationTask(both, 6, 0).loss(model, both.batch(range(6)))
    assert loss.item() == pytest.approx(
        (wanted[:, 0] - torch.from_numpy(values)).square().sum().item(), rel=1e-5
    )


def stepped(micro_batch, *, targets=None, max_row_tokens=0):
    """Losses and weights of three steps with this micro-batch."""
    task = a_task(batch=7, targets=targets, max_row_tokens=max_row_tokens)
    labels = ("a", "b", "c") if targets is None else ()
    model = classifier.with_head(tiny(), labels, seed=0)
    plan = Plan(3, micro_batch, 0, Precision("fp32", torch.device("cpu")))
    trainer = Trainer(model, task, plan, OptimOptions(lr=1e-3), World(0, 1, torch.device("cpu")))
    losses: list[float] = []
    trainer.fit(lambda report: losses.append(report.loss.item()) or False)
    return losses, model.score.weight.detach()


@pytest.mark.parametrize("targets", [None, np.linspace(0, 5, 22, dtype=np.float32)])
def test_a_step_does_not_depend_on_micro_batch_or_packing(targets):
    whole_losses, whole = stepped(7, targets=targets)
    for micro_batch, max_row_tokens in ((2, 0), (7, 32), (4, 48)):
        cut_losses, cut = stepped(micro_batch, targets=targets, max_row_tokens=max_row_tokens)
        assert cut_losses == pytest.approx(whole_losses, rel=1e-5)
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4)
