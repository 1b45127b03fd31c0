import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gptworks.model import native
from gptworks.model.loss import linear_cross_entropy
from gptworks.text.vocabulary import IGNORE
from tests.model.test_lora import tiny

compiled = pytest.mark.skipif(bool(native.unavailable_reason()), reason=native.unavailable_reason())


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch):
    """Looks again for a compiler and a library, here and after the test."""
    looks = (native.kernels, native.unavailable_reason, native._library, native._function)
    for look in looks:
        look.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for look in looks:
        look.cache_clear()


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(70, 1000, generator=generator)).bfloat16()
    targets = torch.randint(0, 970, (70,), generator=generator)
    targets[::9] = IGNORE
    return logits, targets


@compiled
def test_cross_entropy_is_torchs_from_the_same_logits():
    logits, targets = logits_and_targets()
    exact = logits[:, :970].double().requires_grad_()
    loss = F.cross_entropy(exact, targets, reduction="none")
    loss.sum().backward()
    assert exact.grad is not None
    nats = native.cross_entropy(logits, targets, 970, gradient=True)
    torch.testing.assert_close(nats.double(), loss.detach(), rtol=2e-6, atol=2e-6)
    # rounded to bfloat16 once: half a unit of its 8 bits
    torch.testing.assert_close(logits[:, :970].double(), exact.grad, rtol=2**-8, atol=1e-30)
    assert logits[:, 970:].eq(0).all()
    assert logits[::9].eq(0).all()


@compiled
def test_loss_alone_leaves_the_logits_as_they_are():
    logits, targets = logits_and_targets()
    before = logits.clone()
    alone = native.cross_entropy(logits, targets, 970, gradient=False)
    assert torch.equal(logits, before)
    assert torch.equal(alone, native.cross_entropy(logits, targets, 970, gradient=True))


@compiled
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_logit_that_is_not_finite_makes_the_loss_not_finite(poison: float):
    logits, targets = logits_and_targets()
    logits[3, 500] = poison
    nats = native.cross_entropy(logits, targets, 970, gradient=True)
    assert not nats[3].isfinite()
    assert nats[[2, 4]].isfinite().all()
    assert not logits[3].isfinite().all()


@compiled
def test_logits_far_apart_do_not_overflow():
    logits = torch.tensor([[3e4, -3e4, 0.0], [-torch.inf, 1.0, 1.0]]).bfloat16()
    nats = native.cross_entropy(logits.clone(), torch.tensor([0, 1]), 3, gradient=False)
    torch.testing.assert_close(nats, torch.tensor([0.0, 0.6931472]))


@compiled
def test_gelu_and_its_slope_are_torchs():
    x = torch.linspace(-12, 12, 5001).bfloat16().requires_grad_()
    exact = x.detach().double().requires_grad_()
    up = torch.linspace(-1, 1, 5001).bfloat16()
    y, reference = native.gelu(x), F.gelu(exact, approximate="tanh")
    y.backward(up)
    reference.backward(up.double())
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(y.double(), reference, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)


@compiled
def test_what_is_not_contiguous_is_read_right():
    x = torch.randn(40, 60).bfloat16()
    torch.testing.assert_close(native.gelu(x.T), F.gelu(x.T, approximate="tanh"), rtol=2**-7, atol=1e-6)


def test_other_types_go_pytorchs_way():
    x = torch.randn(100)
    assert torch.equal(native.gelu(x), F.gelu(x, approximate="tanh"))


def head_loss() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(50, 16, generator=generator, requires_grad=True)
    weight = torch.randn(128, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 100, (50,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, 100, 7)
    return loss.detach(), *torch.autograd.grad(loss, [hidden, weight])


@compiled
def test_the_head_learns_the_same_with_and_without(fresh: pytest.MonkeyPatch):
    ours = head_loss()
    fresh.setenv("GPTWORKS_NATIVE", "0")
    native.unavailable_reason.cache_clear()
    native.kernels.cache_clear()
    assert native.kernels() is None
    for mine, plain in zip(ours, head_loss(), strict=True):
        assert (mine - plain).norm() <= 2e-3 * plain.norm()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_is_compiled_once_and_only_where_nobody_else_can_write(fresh: pytest.MonkeyPatch, tmp_path: Path):
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    if native.unavailable_reason():
        pytest.skip(native.unavailable_reason())
    (library,) = (tmp_path / "gptworks").iterdir()
    written = library.stat().st_mtime_ns
    for look in (native.kernels, native.unavailable_reason, native._library):
        look.cache_clear()
    assert native.kernels() is not None
    assert library.stat().st_mtime_ns == written
    (tmp_path / "gptworks").chmod(0o777)
    for look in (native.kernels, native.unavailable_reason, native._library):
        look.cache_clear()
    assert "chmod 700" in native.unavailable_reason()


def test_without_a_compiler_pytorch_does_it(fresh: pytest.MonkeyPatch, tmp_path: Path):
    fresh.setenv("PATH", str(tmp_path))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.unavailable_reason()
    assert native.kernels() is None
    assert head_loss()[0].isfinite()


def test_a_compiler_that_fails_is_quoted_in_a_line(fresh: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "cc: no such flag" >&2\nexit 1\n')
    broken.chmod(0o755)
    fresh.setenv("CC", str(broken))
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.kernels() is None
    assert native.unavailable_reason() == "cc: no such flag" or "OpenMP" in native.unavailable_reason()
    assert not list((tmp_path / "gptworks").glob("*")) or "OpenMP" in native.unavailable_reason()


@pytest.mark.skipif(not native.has_amx(), reason="this CPU has no tiles (AMX), or no compiler")
@pytest.mark.parametrize(
    "shape", [(1, 1, 64, 64), (2, 3, 100, 64), (1, 2, 33, 32), (2, 2, 130, 128), (2, 4, 256, 64)]
)
def test_attentions_gradient_is_that_of_float64(shape: tuple[int, int, int, int]):
    """As near as PyTorch's own from bfloat16, from views of one tensor as the network has them."""
    B, H, T, D = shape
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(B, T, 3, H, D, generator=generator).bfloat16()
    up = torch.randn(B, H, T, D, generator=generator).bfloat16()

    def gradient(attention, values):
        values = values.detach().requires_grad_()
        y = attention(*values.permute(2, 0, 3, 1, 4))
        y.backward(up.to(values.dtype))
        return y.detach().double(), values.grad.double()

    def plain(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    (y, ours), (_, theirs), (exact, true) = (
        gradient(native.attention, qkv),
        gradient(plain, qkv),
        gradient(plain, qkv.double()),
    )
    assert (y - exact).norm() < 4e-3 * exact.norm()
    assert (ours - true).norm() < max(3e-3 * true.norm(), 1.1 * (theirs - true).norm())


def test_attention_is_left_to_pytorch_where_it_does_not_suit():
    q = torch.randn(1, 2, 64, 32)
    assert native.attention(q, q, q) is None
    half = q.bfloat16()
    assert native.attention(half, half, half) is None  # nothing to learn
    with torch.no_grad():
        assert native.attention(half.requires_grad_(), half, half) is None
    assert native.attention(half[:, :, :8], half[:, :, :8], half[:, :, :8]) is None
    assert native.attention(half, half[:, :1], half[:, :1]) is None


@pytest.mark.skipif(not native.has_amx(), reason="this CPU has no tiles (AMX), or no compiler")
def test_a_value_that_is_not_finite_is_not_swallowed():
    qkv = torch.randn(1, 2, 64, 32).bfloat16()
    qkv[0, 1, 40, 3] = torch.nan
    q = qkv.requires_grad_()
    y = native.attention(q, q, q)
    assert y is not None
    y.sum().backward()
    assert q.grad is not None
    assert not q.grad[0, 1].isfinite().all()
    assert q.grad[0, 0].isfinite().all()


tiled = pytest.mark.skipif(not native.has_amx(), reason="this CPU has no tiles (AMX), or no compiler")


def few(rows: int, n: int = 48, k: int = 96) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(rows)
    shapes = (rows, k), (n, k), (n,)
    x, weight, bias = (torch.randn(shape, generator=chance).bfloat16() for shape in shapes)
    return x, weight, bias


@tiled
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_few_rows_times_a_matrix_are_torchs_product(rows: int, biased: bool):
    x, weight, bias = few(rows)
    bias = bias if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    y = native.small_batch_matmul(x, weight, bias)
    assert y is not None
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-5)  # rounded once
    for row in range(rows):  # whoever else is there
        assert torch.equal(native.small_batch_matmul(x[row], weight, bias), y[row])


@tiled
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17, 100])
@torch.no_grad()
def test_few_rows_times_int8_lose_nothing_of_the_rows(rows: int):
    x, weight, bias = few(rows, n=64, k=128)
    x[0, 5] = 300.0  # one that is far larger than the others, as GPT-2's activations have
    eights = (weight * 30).round().clamp(-127, 127).to(torch.int8)
    scales = torch.rand(64, generator=torch.Generator().manual_seed(9)) / 30
    exact = F.linear(x.double(), eights.double() * scales.double()[:, None], bias.double())
    y = native.small_batch_matmul(x, eights, bias, scales)
    assert y is not None
    coarse = x.double().abs().amax(1, keepdim=True) / 127 / 254 / 2 * (eights.double().abs().sum(1) * scales)
    assert ((y.double() - exact).abs() <= exact.abs() * 2**-8 + coarse + 1e-5).all()
    assert torch.equal(native.small_batch_matmul(x[:1], eights, bias, scales), y[:1])


@tiled
@torch.no_grad()
def test_few_rows_of_zeros_and_of_what_is_not_finite():
    x, weight, bias = few(3)
    x[0], x[1, 4], x[2, 4] = 0.0, torch.nan, torch.inf
    y = native.small_batch_matmul(x, weight, bias)
    assert y is not None
    assert torch.equal(y[0], bias)
    assert y[1].isnan().all()
    assert not y[2].isfinite().any()
    eights = torch.ones(48, 128, dtype=torch.int8)
    y = native.small_batch_matmul(F.pad(x, (0, 32)), eights, bias, torch.ones(48))
    assert y is not None
    assert torch.equal(y[0], bias)
    assert not y[1:].isfinite().any()


@torch.no_grad()
def test_what_the_tiles_do_not_suit_is_left_to_torch():
    x, weight, bias = few(4)
    assert native.small_batch_matmul(x.float(), weight.float(), None) is None
    assert native.small_batch_matmul(x, weight[:40], None) is None
    assert native.small_batch_matmul(x[:, :80].contiguous(), weight[:, :80].contiguous(), None) is None
    assert native.small_batch_matmul(x, weight[:, ::2], None) is None
    assert native.small_batch_matmul(x, weight, bias.float()) is None
    assert native.small_batch_matmul(x[:0], weight, None) is None
    assert native.small_batch_matmul(few(33)[0], weight, None) is None
    with torch.enable_grad():
        assert native.small_batch_matmul(x, weight, None) is None


@tiled
@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_a_network_s_step_is_the_same_with_the_tiles_to_rounding(family, monkeypatch: pytest.MonkeyPatch):
    model = tiny(family, n_embd=64, n_inner=128, init_std=0.05).bfloat16().eval()
    results = []
    fast = native.small_batch_matmul
    monkeypatch.setattr(
        native, "small_batch_matmul", lambda *args: results.append(fast(*args)) or results[-1]
    )
    ids = torch.tensor([[5, 9, 30]])
    with torch.inference_mode():
        ours = model.logits(model(ids))
        monkeypatch.setattr(native, "small_batch_matmul", lambda *_: None)
        wanted = model.logits(model(ids))
    assert results
    assert all(y is not None for y in results)
    torch.testing.assert_close(ours, wanted, rtol=0.02, atol=0.02)
