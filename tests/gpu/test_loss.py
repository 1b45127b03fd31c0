import pytest
import torch

from gptworks.model.loss import linear_cross_entropy
from tests.model.test_loss import V, problem, reference, relative


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_is_the_same(dtype: torch.dtype):
    """Also in place: log_softmax there writes over what it reads."""
    hidden, weight, targets = (tensor.detach().cuda() for tensor in problem())
    for tensor in (hidden, weight):
        tensor.requires_grad_()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        loss = linear_cross_entropy(hidden, weight, targets, V, 8)
        true = reference(hidden, weight, targets)
    ours = torch.autograd.grad(loss, [hidden, weight])
    theirs = torch.autograd.grad(true, [hidden, weight])
    tolerance = 1e-5 if dtype == torch.float32 else 2**-6
    assert relative(loss.detach(), true.detach()) < tolerance
    assert max(map(relative, ours, theirs)) < tolerance
