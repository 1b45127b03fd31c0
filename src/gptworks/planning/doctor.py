"""What this machine has, which fast paths work on it, what gptworks chooses because of that, and how to improve it.

Each probe runs a small operation and reports its speed, or the reason why it failed.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gptworks.devices import cpu_info, cpu_name, default_device, describe, fast_dtype
from gptworks.generation.loading import best_dtype
from gptworks.host_memory import cgroup_limit, memory_available, memory_total
from gptworks.messages import first_line, shorten
from gptworks.model import native
from gptworks.train import parallel
from gptworks.train.peak import measure_flops
from gptworks.train.precision import Precision

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "triton", "bitsandbytes", "transformers")
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
)
ARM_FLAGS = ("asimd", "bf16", "i8mm", "sve", "sve2")
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
ONLY_ON_GPUS = {"memory-efficient", "cudnn"}
LOW_DISK, LOW_MEMORY = 5e9, 2e9


def examine() -> dict[str, Any]:
    """The full report, as `doctor --json` prints it. Takes about ten seconds."""
    device = default_device()
    report: dict[str, Any] = {"machine": machine(device), "probes": probes(device)}
    report["chosen"] = choices(device, report["probes"])
    report["fixes"] = fixes(report, device)
    return report


def machine(device: torch.device) -> dict[str, Any]:
    """The machine's hardware and software."""
    disk = shutil.disk_usage(Path.cwd())
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_features": _cpu_features(),
        "memory_total": memory_total(torch.device("cpu")),
        "memory_free": memory_available(torch.device("cpu")),
        "memory_limit": cgroup_limit(),
        "disk_free": disk.free,
        "device": describe(device),
        "gpus": _gpus(),
        "compilers": {name: shutil.which(name) for name in ("cc", "c++", "nvcc", "nvidia-smi")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_features() -> list[str]:
    info = cpu_info()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in (*CPU_FLAGS, *ARM_FLAGS) if flag in flags]


def _gpus() -> list[dict[str, Any]]:
    """Every GPU that torch sees; `mig` is true for a slice of one."""
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        {
            "name": gpu.name,
            "memory_total": gpu.total_memory,
            "capability": f"{gpu.major}.{gpu.minor}",
            "mig": "MIG" in gpu.name or str(getattr(gpu, "uuid", "")).startswith("MIG"),
            "driver": _driver(),
            "cuda": torch.version.cuda or torch.version.hip,
        }
        for gpu in gpus
    ]


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        process = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.split("\n")[0].strip() or None


def run_probe(probe: Callable[[], Any]) -> dict[str, Any]:
    """{"works": True, "says": its return value}, or {"works": False, "says": the reason in one line}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"works": True, "says": probe()}
    except NotImplementedError:  # torch's message lists pages of kernels
        return {"works": False, "says": "torch has no kernel for it on this device"}
    except Exception as error:  # any failure is a finding
        return {"works": False, "says": first_line(error)}


def probes(device: torch.device) -> dict[str, Any]:
    """The operations that training depends on, each run once."""
    kinds = ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16")
    results: dict[str, Any] = {
        f"{kind} products": run_probe(lambda kind=kind: flops(kind, device)) for kind in kinds
    }
    results["int8 products"] = run_probe(lambda: int8_flops(device))
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for name, backend in BACKENDS.items():
        if device.type == "cpu" and name in ONLY_ON_GPUS:
            continue
        results[f"attention: {name}"] = run_probe(lambda backend=backend: attention(backend, device, dtype))
    results["attention: separate documents (varlen)"] = run_probe(lambda: varlen(device))
    results["fused AdamW"] = run_probe(lambda: fused(device))
    results["torch.compile"] = run_probe(lambda: compiled(device))
    results["allocator"] = {"works": True, "says": allocator(device)}
    return results


def flops(kind: Any, device: torch.device) -> str:
    """Speed of matrix multiplication."""
    return f"{measure_flops(Precision(kind, device)) / 1e12:.3g} TFLOP/s"


def int8_flops(device: torch.device, size: int = 512) -> str:
    """Speed of int8 matrix multiplication with int32 accumulation."""
    a, b = (torch.ones(size, size, dtype=torch.int8, device=device) for _ in range(2))
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        torch._int_mm(a, b)[0, 0].item()  # pyright: ignore[reportPrivateImportUsage] - the only int8 product in torch
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return f"{best / 1e12:.3g} TOP/s"


def attention(backend: SDPBackend, device: torch.device, dtype: torch.dtype) -> str:
    """Forward and backward of causal attention through one kernel."""
    q, k, v = (torch.randn(1, 8, 512, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    with sdpa_kernel(backend):
        start = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        assert q.grad is not None
        q.grad[0, 0, 0, 0].item()
    return f"{(time.perf_counter() - start) * 1e3:.1f} ms"


def varlen(device: torch.device) -> str:
    """PyTorch's attention over documents of different lengths in one row."""
    from torch.nn.attention.varlen import varlen_attn

    q = torch.randn(96, 4, 64, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([0, 32, 96], dtype=torch.int32, device=device)
    cast(torch.Tensor, varlen_attn(q, q, q, ends, ends, 64, 64))[0, 0, 0].item()
    return "works"


def fused(device: torch.device) -> str:
    """AdamW in one kernel."""
    weight = torch.ones(8, device=device, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], fused=True).step()
    return "works"


def compiled(device: torch.device) -> str:
    """torch.compile, which needs a compiler."""
    if reason := parallel.compile_failure(device):
        raise RuntimeError(reason)
    return "works"


def allocator(device: torch.device) -> str:
    """The memory allocator in use."""
    if device.type == "cuda":
        return torch.cuda.get_allocator_backend()
    preload = os.environ.get("LD_PRELOAD", "")
    other = next((name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in preload), None)
    if other or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return other or "the system's"
    return "glibc's, tuned to keep large freed buffers"


def choices(device: torch.device, probed: dict[str, Any]) -> dict[str, str]:
    """What the options on `auto` resolve to on this machine, and why."""
    dtype = fast_dtype(device)
    if device.type == "cpu":
        why = (
            "the CPU has AMX or AVX512-BF16" if dtype == "bf16" else "bf16 is slow without AMX or AVX512-BF16"
        )
    elif device.type == "cuda":
        why = "the GPU supports it" if dtype == "bf16" else "the GPU does not support bf16"
    else:
        why = "no lower precision is known to be faster on this device"
    if device.type == "cuda":
        compiles = probed["torch.compile"]["works"]
        reason = "it works" if compiles else "it does not work here"
    else:
        compiles, reason = False, "on a CPU, compiling takes longer than it saves"
    working = [name for name in BACKENDS if probed.get(f"attention: {name}", {}).get("works")]
    return {
        "device": f"{describe(device)}: the fastest that torch sees",
        "train.precision": f"{dtype}: {why}",
        "train.compile": f"{'on' if compiles else 'off'}: {reason}",
        "--dtype": _weight_dtype(device),
        "attention": f"{working[0] if working else 'none'}: torch's first kernel that works",
    }


def _weight_dtype(device: torch.device) -> str:
    best = best_dtype(device)
    if device.type != "cpu":
        return f"{best}: half as many bytes to read per token"
    if best == "bf16":
        return "bf16: our compiled code reads it at full speed with AMX"
    return f"fp32: bf16 would be slower; {native.unavailable_reason() or 'this CPU has no AMX'}"


def fixes(report: dict[str, Any], device: torch.device) -> list[str]:
    """Ways to improve the machine, a line each."""
    machine, probed, advice = report["machine"], report["probes"], []
    if machine["compilers"]["nvidia-smi"] and device.type != "cuda":
        advice.append(
            "an NVIDIA driver is installed, but torch sees no GPU: install torch's CUDA build (pytorch.org)"
        )
    if not probed["torch.compile"]["works"] and device.type == "cuda":
        advice.append("torch.compile does not work: install a C compiler (apt install gcc) and triton")
    if device.type == "cpu" and not (machine["compilers"]["c++"] or shutil.which("g++")):
        advice.append("there is no C++ compiler, which --train.compile on needs: apt install g++")
    allowed = machine["cores_allowed"] or 1
    if machine["threads"] < allowed and device.type == "cpu":
        advice.append(f"torch uses {machine['threads']} of {allowed} cores: unset OMP_NUM_THREADS")
    if machine["disk_free"] < LOW_DISK:
        advice.append(
            f"only {machine['disk_free'] / 1e9:.1f} GB of disk are free here: make room for checkpoints"
        )
    if (machine["memory_free"] or LOW_MEMORY) < LOW_MEMORY:
        advice.append(f"only {machine['memory_free'] / 1e9:.1f} GB of memory are free: close other programs")
    for gpu in machine["gpus"]:
        if gpu["mig"]:
            gb = gpu["memory_total"] / 1e9
            advice.append(f"{gpu['name']} is a slice of a GPU (MIG): plan with its {gb:.0f} GB")
    return advice


def as_text(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = []
    for title in ("machine", "probes", "chosen"):
        lines += [title, *(f"  {name:<38} {_plain(name, value)}" for name, value in report[title].items())]
    lines += ["how to improve it", *(f"  {line}" for line in report["fixes"] or ["nothing to suggest"])]
    return "\n".join(lines)


def _plain(name: str, value: Any) -> str:
    if isinstance(value, dict) and "works" in value:
        return str(value["says"]) if value["works"] else f"no: {shorten(value['says'], 90)}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item) or "none"
    if isinstance(value, list):
        return "; ".join(item if isinstance(item, str) else json.dumps(item) for item in value) or "none"
    if isinstance(value, int) and name.startswith(("memory", "disk")):
        return f"{value / 1e9:.1f} GB"
    return "none" if value is None else str(value)
