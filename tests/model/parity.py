"""What the tests of both families compare."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptworks.model.build import Model
from gptworks.model.hf_weights import to_disk
from gptworks.model.loss import linear_cross_entropy
from tests.conftest import CONTEXT, VOCABULARY


def some_ids(seed: int = 0, rows: int = 3, length: int = CONTEXT) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def logits(model: Model, ids: Tensor) -> Tensor:
    return model.logits(model(ids))


def assert_same_network(ours: Model, theirs: torch.nn.Module) -> None:
    """Logits, loss and every gradient agree with those of a transformers model, to a relative 1e-5 in float32."""
    ids, targets = some_ids(1), some_ids(2)
    assert relative(logits(ours, ids), theirs(ids).logits) < 1e-5
    hidden = ours(ids).flatten(0, 1)
    loss = linear_cross_entropy(hidden, ours.head_weight, targets.flatten(), ours.config.vocab_size)
    true = F.cross_entropy(theirs(ids).logits.flatten(0, 1), targets.flatten(), reduction="sum")
    assert relative(loss.detach(), true.detach()) < 1e-5
    ours.zero_grad()
    theirs.zero_grad()
    loss.backward()
    true.backward()
    wanted = {name: param.grad for name, param in theirs.named_parameters() if param.grad is not None}
    compared = 0
    for name, grad in gradients(ours).items():
        assert relative(grad, wanted[name]) < 1e-5, name
        compared += 1
    assert compared >= 3 * ours.config.n_layer


def gradients(model: Model) -> dict[str, Tensor]:
    """Gradients under the names, and in the layout, that a transformers model has."""
    stand_in = {name: param for name, param in model.named_parameters() if param.grad is not None}
    kept = {name: param.detach().clone() for name, param in stand_in.items()}
    with torch.no_grad():
        for param in stand_in.values():
            assert param.grad is not None
            param.copy_(param.grad)
        on_disk = {name: tensor.clone() for name, tensor in to_disk(model).items() if name in stand_in}
        for name, param in stand_in.items():
            param.copy_(kept[name])
    return on_disk
