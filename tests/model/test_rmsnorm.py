import pytest
import torch
import torch.nn.functional as F

from gptworks.model.rmsnorm import RMSNorm


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 4, 8)])
def test_value_and_gradients_are_those_of_pytorch(shape: tuple[int, ...]):
    torch.manual_seed(0)
    norm, x, out = RMSNorm(8, 1e-3), torch.randn(shape, requires_grad=True), torch.randn(shape)
    with torch.no_grad():
        norm.weight.normal_()
    ours = norm(x)
    theirs = F.rms_norm(x, (8,), norm.weight, 1e-3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    pairs = zip(*(torch.autograd.grad(y, [x, norm.weight], out) for y in (ours, theirs)), strict=True)
    for our_grad, their_grad in pairs:
        torch.testing.assert_close(our_grad, their_grad, rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), theirs, rtol=0, atol=1e-5)


def test_gradients_agree_with_finite_differences():
    norm = RMSNorm(4, 1e-2).double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))


def test_in_half_precision_sums_are_float32():
    """A mean square of 10^5 numbers of size 1 is 1: bfloat16 sums would stop growing at 256."""
    norm, x = RMSNorm(100_000, 0.0), torch.ones(1, 100_000, dtype=torch.bfloat16, requires_grad=True)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert y.eq(1.0).all()
