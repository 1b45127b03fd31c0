"""The loops of native.c, compiled for this CPU the first time that they are wanted.

A few of a language model's loops take PyTorch several passes over large tensors on a CPU. native.c does them in one,
in a second of compiling that is kept in the user's cache. Without Linux, a C compiler or with GPTWORKS_NATIVE=0 each
caller takes its way in PyTorch instead: the same numbers to rounding, slower.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention", "cross_entropy", "few_rows", "gelu", "has_tiles", "kernels", "why_not"]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
WIDE = "-mprefer-vector-width=512"
"""GCC and Clang are shy of AVX512's full width, for the sake of older CPUs' clocks."""

FEW, FEW_EIGHTS = 32, 128
"""Rows from which PyTorch's product is the faster one: of bfloat16, and of int8 that are widened for it."""


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled library, or None where there is none: `why_not` then says why."""
    return None if why_not() else ctypes.CDLL(str(_library()))


@cache
def why_not() -> str:
    """What keeps the compiled loops from being used here, in words; empty if nothing does."""
    if os.environ.get("GPTWORKS_NATIVE") == "0":
        return "GPTWORKS_NATIVE=0"
    if sys.platform != "linux" or "libgomp" not in Path("/proc/self/maps").read_text():
        return "they share threads with PyTorch's GNU OpenMP on Linux, which is not here"
    try:
        ctypes.CDLL(str(_library()))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return next((line for line in said.splitlines() if line.strip()), type(error).__name__)
    return ""


@cache
def _library() -> Path:
    """The shared library of this source, compiler and CPU; compiled if it is not in the cache."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise OSError("no C compiler (cc, gcc or clang) is installed")
    source = files("gptworks.model").joinpath("native.c").read_bytes()
    flags = [*FLAGS, WIDE] if platform.machine() == "x86_64" else list(FLAGS)
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    cpu = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "")
    key = hashlib.sha256(b"\0".join([source, version, cpu.encode(), *(flag.encode() for flag in flags)]))
    library = _cache_folder() / f"native-{key.hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(
            dir=library.parent
        ) as folder:  # several processes may do this at once
            made = Path(folder) / library.name
            (Path(folder) / "native.c").write_bytes(source)
            command = [compiler, *flags, "-o", str(made), str(Path(folder) / "native.c")]
            subprocess.run(command, capture_output=True, check=True, text=True, timeout=120)
            made.replace(library)
    return library


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _cache_folder() -> Path:
    """Only its owner may write there: what lies in it is run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptworks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(
            f"{folder} can be written by others, and compiled code is run from it: chmod 700 {folder}"
        )
    return folder


def cross_entropy(logits: Tensor, targets: Tensor, vocab_size: int, *, gradient: bool) -> Tensor:
    """(n, V) bfloat16 logits, (n,) targets -> (n,) nats in float32, 0 where a target is negative.

    With `gradient`, the logits are overwritten by theirs. Ids from `vocab_size` on are padding.
    """
    assert logits.dtype == torch.bfloat16
    assert logits.stride(1) == 1
    targets = targets.contiguous()
    nats = torch.empty(len(logits))
    _call("cross_entropy", logits, targets, nats, len(logits), logits.stride(0), vocab_size, gradient)
    return nats


def gelu(x: Tensor) -> Tensor:
    """GELU by its tanh, F.gelu(x, approximate="tanh"), compiled where `x` is bfloat16 on a CPU."""
    if (
        x.dtype != torch.bfloat16
        or x.device.type != "cpu"
        or torch.compiler.is_compiling()
        or kernels() is None
    ):
        return F.gelu(x, approximate="tanh")
    if torch.is_grad_enabled():
        y: Tensor = _Gelu.apply(x)  # type: ignore[assignment] # not annotated
        return y
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    _call("gelu", x, y, x.numel())
    return y


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        _call("gelu", x, y, x.numel())
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        _call("gelu_backward", grad_outputs[0].contiguous(), x, out, x.numel())
        return out


@cache
def has_tiles() -> bool:
    """Whether this CPU has the tiles (AMX) that some of the loops are written for, and we may use them."""
    return kernels() is not None and bool(_call("tiles_ready"))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """softmax(QK' / sqrt(D)) V of tokens that see themselves and the past, each (B, H, T, D); its gradient is compiled.

    None where that is not possible or does not pay, and PyTorch's own is to be taken.
    """
    suits = (
        q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape == k.shape and q.shape[3] % 32 == 0
    )
    if not suits or not torch.is_grad_enabled() or torch.compiler.is_compiling() or not has_tiles():
        return None
    if not (q.requires_grad or k.requires_grad or v.requires_grad) or q.shape[2] < 32:
        return None
    y: Tensor = _Attention.apply(q, k, v)  # type: ignore[assignment] # not annotated
    return y


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, spread = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        ctx.save_for_backward(q, k, v, y, spread)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        q, k, v, y, spread = ctx.saved_tensors
        B, H, T, D = q.shape
        read = [t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v, y, grad_outputs[0])]
        where = [[t.data_ptr(), *t.stride()[:3]] for t in (*read, spread)]
        made = [q.new_empty(B, T, H, D) for _ in range(3)]
        if _call("attention_backward", torch.tensor(where, dtype=torch.int64), *made, B, T, H, D):
            raise MemoryError("attention_backward")
        return tuple(grad.transpose(1, 2) for grad in made)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None = None) -> Tensor | None:
    """(..., k) x, (n, k) weight -> (..., n) x W' + bias in about the time it takes to read the weights; no gradient.

    The weight is bfloat16, or int8 with (n,) float32 scales, everything else bfloat16. A row's result is the same
    whatever other rows there are. None where that is not possible or does not pay.
    """
    if x.dtype != torch.bfloat16 or torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    n, k = weight.shape
    rows = x.numel() // k
    suits = (
        weight.dtype == (torch.bfloat16 if scales is None else torch.int8)
        and (bias is None or bias.dtype == torch.bfloat16)
        and (n % 16, k * weight.element_size() % 64) == (0, 0)
        and 0 < rows <= (FEW if scales is None else FEW_EIGHTS)
        and weight.is_contiguous()
    )
    if not suits or torch.compiler.is_compiling() or not has_tiles():
        return None
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], n)
    if _call("few_rows", x, weight, scales, bias, y, rows, n, k):
        raise MemoryError("few_rows")
    return y


def _call(name: str, *arguments: Tensor | int | None) -> int:
    """Tensors are passed by their address, numbers as int64."""
    given = [a.data_ptr() if isinstance(a, Tensor) else a or 0 for a in arguments]
    return _function(name, len(given))(*given)


@cache
def _function(name: str, n_arguments: int) -> Callable[..., int]:
    function = getattr(kernels(), name)
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * n_arguments
    return function
