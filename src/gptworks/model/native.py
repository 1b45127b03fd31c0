"""The kernels of native.c, compiled for this CPU on first use.

On a CPU some operations of a language model take PyTorch several passes over large tensors. native.c does them in one.
Compiling takes a second, and the library stays in the user's cache. On other systems than Linux, without a C compiler,
or with GPTWORKS_NATIVE=0, callers use PyTorch instead: slower, with the same results up to rounding.
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

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
FULL_WIDTH_VECTORS = "-mprefer-vector-width=512"
"""By default GCC and Clang avoid AVX512's full width, which lowers the clock of older CPUs."""

MAX_BF16_ROWS, MAX_INT8_ROWS = 32, 128
"""With more rows PyTorch's product is faster: in bfloat16, or in int8 converted to bfloat16."""


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled library, or None if there is none; `unavailable_reason` gives the reason."""
    return None if unavailable_reason() else ctypes.CDLL(str(_library()))


@cache
def unavailable_reason() -> str:
    """Why the compiled kernels cannot be used here; empty if they can."""
    if os.environ.get("GPTWORKS_NATIVE") == "0":
        return "GPTWORKS_NATIVE=0"
    if sys.platform != "linux" or "libgomp" not in Path("/proc/self/maps").read_text():
        return "compiled kernels need Linux and a PyTorch with GNU OpenMP"
    try:
        ctypes.CDLL(str(_library()))
    except (OSError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or str(error)
        return next((line for line in message.splitlines() if line.strip()), type(error).__name__)
    return ""


@cache
def _library() -> Path:
    """The shared library for this source, compiler and CPU; compiled unless it is in the cache."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise OSError("no C compiler (cc, gcc or clang) is installed")
    source = files("gptworks.model").joinpath("native.c").read_bytes()
    flags = [*FLAGS, FULL_WIDTH_VECTORS] if platform.machine() == "x86_64" else list(FLAGS)
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    cpu = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "")
    key = hashlib.sha256(b"\0".join([source, version, cpu.encode(), *(flag.encode() for flag in flags)]))
    library = _cache_folder() / f"native-{key.hexdigest()[:16]}.so"
    if not library.exists():
        # Compile in a temporary folder and rename: several processes may do this at once.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            compiled = Path(folder) / library.name
            (Path(folder) / "native.c").write_bytes(source)
            command = [compiler, *flags, "-o", str(compiled), str(Path(folder) / "native.c")]
            subprocess.run(command, capture_output=True, check=True, text=True, timeout=120)
            compiled.replace(library)
    return library


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _cache_folder() -> Path:
    """The user's cache folder. Only its owner may write to it, because its content is executed."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptworks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} holds compiled code, but others can write to it: chmod 700 {folder}")
    return folder


def cross_entropy(logits: Tensor, targets: Tensor, vocab_size: int, *, gradient: bool) -> Tensor:
    """(n, V) bfloat16 logits, (n,) targets -> (n,) nats in float32, 0 where a target is negative.

    With `gradient`, the logits are overwritten by their gradient. Ids from `vocab_size` on are padding.
    """
    assert logits.dtype == torch.bfloat16
    assert logits.stride(1) == 1
    targets = targets.contiguous()
    nats = torch.empty(len(logits))
    _call("cross_entropy", logits, targets, nats, len(logits), logits.stride(0), vocab_size, gradient)
    return nats


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, compiled if `x` is bfloat16 on a CPU."""
    on_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if not on_cpu or torch.compiler.is_compiling() or kernels() is None:
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
def has_amx() -> bool:
    """Whether the kernels that need AMX, the matrix unit of recent Intel CPUs, can run here."""
    return kernels() is not None and bool(_call("tiles_ready"))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """Causal softmax(QK' / sqrt(D)) V of (B, H, T, D) tensors, with a compiled gradient.

    None if that is impossible or slower; use PyTorch's attention then.
    """
    on_cpu = q.dtype == torch.bfloat16 and q.device.type == "cpu"
    supported = on_cpu and q.shape == k.shape and q.shape[3] % 32 == 0
    if not supported or not torch.is_grad_enabled() or torch.compiler.is_compiling() or not has_amx():
        return None
    if not (q.requires_grad or k.requires_grad or v.requires_grad) or q.shape[2] < 32:
        return None
    y: Tensor = _Attention.apply(q, k, v)  # type: ignore[assignment] # not annotated
    return y


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        ctx.save_for_backward(q, k, v, y, lse)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        q, k, v, y, lse = ctx.saved_tensors
        B, H, T, D = q.shape
        inputs = [t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v, y, grad_outputs[0])]
        views = [[t.data_ptr(), *t.stride()[:3]] for t in (*inputs, lse)]
        grads = [q.new_empty(B, T, H, D) for _ in range(3)]
        if _call("attention_backward", torch.tensor(views, dtype=torch.int64), *grads, B, T, H, D):
            raise MemoryError("attention_backward")
        return tuple(grad.transpose(1, 2) for grad in grads)


def small_batch_matmul(
    x: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None = None
) -> Tensor | None:
    """(..., k) x, (n, k) weight -> (..., n) x W' + bias in about the time it takes to read the weights; no gradient.

    The weight is bfloat16, or int8 with (n,) float32 scales; everything else is bfloat16. A row's result does not
    depend on the other rows. None if this is impossible or slower; use PyTorch's product then.
    """
    if x.dtype != torch.bfloat16 or torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    n, k = weight.shape
    rows = x.numel() // k
    supported = (
        weight.dtype == (torch.bfloat16 if scales is None else torch.int8)
        and (bias is None or bias.dtype == torch.bfloat16)
        and (n % 16, k * weight.element_size() % 64) == (0, 0)
        and 0 < rows <= (MAX_BF16_ROWS if scales is None else MAX_INT8_ROWS)
        and weight.is_contiguous()
    )
    if not supported or torch.compiler.is_compiling() or not has_amx():
        return None
    x = x.contiguous()
    y = x.new_empty(*x.shape[:-1], n)
    if _call("small_batch_matmul", x, weight, scales, bias, y, rows, n, k):
        raise MemoryError("small_batch_matmul")
    return y


def _call(name: str, *arguments: Tensor | int | None) -> int:
    """Call a kernel: tensors are passed as addresses, integers as int64, None as 0."""
    values = [a.data_ptr() if isinstance(a, Tensor) else a or 0 for a in arguments]
    return _function(name, len(values))(*values)


@cache
def _function(name: str, n_arguments: int) -> Callable[..., int]:
    function = getattr(kernels(), name)
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * n_arguments
    return function
