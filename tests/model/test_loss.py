import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptworks.model.loss import linear_cross_entropy
from gptworks.text.vocabulary import IGNORE

N, C, V, PADDED = 50, 16, 100, 128


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, C, generator=generator, dtype=dtype)
    weight = torch.randn(PADDED, C, generator=generator, dtype=dtype)
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[::7] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T)[:, :V].float(), targets, reduction="sum")


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("chunk", [1, 7, 25, 50, 1000, None])
def test_loss_and_gradients_are_exact_whatever_the_chunk(chunk: int | None):
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden, weight, targets, V, chunk)
    true = reference(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert relative(loss.detach(), true.detach()) < 1e-6
    ours = torch.autograd.grad(loss * 0.37, [hidden, weight])
    theirs = torch.autograd.grad(true * 0.37, [hidden, weight])
    assert max(map(relative, ours, theirs)) < 1e-6


def test_gradients_agree_with_finite_differences():
    hidden, weight, _ = problem(torch.float64)
    targets = torch.tensor([1, IGNORE, 3, 0, 8])
    inputs = (hidden[:5, :4].detach().requires_grad_(), weight[:12, :4].detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, 9, 2), inputs)


def test_padding_rows_get_no_gradient_and_do_not_matter():
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden, weight, targets, V)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad[V:].eq(0).all()
    with torch.no_grad():
        weight[V:] = 1e4
    assert torch.equal(linear_cross_entropy(hidden, weight, targets, V), loss)


def test_targets_not_learned_add_nothing():
    hidden, weight, targets = problem()
    learned = targets != IGNORE
    loss = linear_cross_entropy(hidden, weight, targets, V)
    alone = linear_cross_entropy(hidden[learned], weight, targets[learned], V)
    torch.testing.assert_close(loss, alone, rtol=1e-6, atol=0)
    loss.backward()
    assert hidden.grad is not None
    assert hidden.grad[~learned].eq(0).all()
    nothing = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE), V)
    assert nothing.item() == 0.0
    assert all(grad.eq(0).all() for grad in torch.autograd.grad(nothing, [hidden, weight]))


def test_a_hopeless_target_costs_its_exact_price():
    """exp(-500) is no float32; the loss is 500 all the same."""
    hidden, weight = torch.tensor([[500.0]]), torch.tensor([[1.0], [0.0]])
    assert linear_cross_entropy(hidden, weight, torch.tensor([1]), 2).item() == 500.0


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, targets = problem()
    with_grad = linear_cross_entropy(hidden, weight, targets, V, 8)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets, V, 8), with_grad)


def test_only_the_gradient_that_is_asked_for_is_made():
    hidden, weight, targets = problem()
    linear_cross_entropy(hidden, weight.detach(), targets, V).backward()
    both, _, _ = problem()
    linear_cross_entropy(both, weight, targets, V).backward()
    assert hidden.grad is not None
    assert both.grad is not None
    assert torch.equal(hidden.grad, both.grad)


def test_under_autocast_products_are_bfloat16_and_sums_float32():
    """The same as a bfloat16 product whose logits are then taken as float32; gradients in the tensors' own dtype."""
    hidden, weight, targets = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, V, 8)
        true = reference(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert relative(loss.detach(), true.detach()) < 1e-6
    ours = torch.autograd.grad(loss, [hidden, weight])
    theirs = torch.autograd.grad(true, [hidden, weight])
    assert [grad.dtype for grad in ours] == [torch.float32, torch.float32]
    assert max(map(relative, ours, theirs)) < 2**-6  # a few roundings to 8 bits


def test_no_tokens_cost_nothing():
    hidden, weight, targets = problem()
    loss = linear_cross_entropy(hidden[:0], weight, targets[:0], V)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, weight)[0].eq(0).all()
