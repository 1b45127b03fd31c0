"""What this machine has, which fast paths really run on it, what gptworks therefore chooses, and what would help.

Nothing is believed that can be tried: each probe runs the operation, small, and says how fast it was, or why not.
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

from gptworks.generate.loading import best_weights
from gptworks.model import native
from gptworks.train import parallel
from gptworks.train.peak import measured_flops
from gptworks.train.precision import Precision
from gptworks.wording import beginning, first_line
from gptworks.world import (
    cgroup_limit,
    cpu_info,
    default_device,
    describe,
    fast_dtype,
    memory_available,
    memory_total,
    processor,
)

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
LITTLE_DISK, LITTLE_MEMORY = 5e9, 2e9


def examine() -> dict[str, Any]:
    """Everything, as `doctor --json` prints it; about ten seconds."""
    device = default_device()
    found: dict[str, Any] = {"machine": machine(device), "probes": probes(device)}
    found["chosen"] = choices(device, found["probes"])
    found["fixes"] = fixes(found, device)
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What is there, asked of the system."""
    disk = shutil.disk_usage(Path.cwd())
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": processor(),
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
    have = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in (*CPU_FLAGS, *ARM_FLAGS) if flag in have]


def _gpus() -> list[dict[str, Any]]:
    """Every GPU that torch sees; a slice of one (MIG) says so in its name."""
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": facts.name,
                "memory_total": facts.total_memory,
                "capability": f"{facts.major}.{facts.minor}",
                "mig": "MIG" in facts.name or str(getattr(facts, "uuid", "")).startswith("MIG"),
                "driver": _driver(),
                "cuda": torch.version.cuda or torch.version.hip,
            }
        )
    return found


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None


def tried(probe: Callable[[], Any]) -> dict[str, Any]:
    """{"works": True, "says": what it returned}, or {"works": False, "says": why not, in one line}."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"works": True, "says": probe()}
    except NotImplementedError:  # torch's own words are a page of kernels' names
        return {"works": False, "says": "torch has no kernel for it on this device"}
    except Exception as error:  # whatever goes wrong in there is what is asked
        return {"works": False, "says": first_line(error)}


def probes(device: torch.device) -> dict[str, Any]:
    """What runs, by trying it."""
    kinds = ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16")
    found: dict[str, Any] = {
        f"{kind} products": tried(lambda kind=kind: flops(kind, device)) for kind in kinds
    }
    found["int8 products"] = tried(lambda: int8_flops(device))
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for name, backend in BACKENDS.items():
        if device.type == "cpu" and name in ONLY_ON_GPUS:
            continue
        found[f"attention: {name}"] = tried(lambda backend=backend: attention(backend, device, dtype))
    found["attention: of documents apart (varlen)"] = tried(lambda: varlen(device))
    found["fused AdamW"] = tried(lambda: fused(device))
    found["torch.compile"] = tried(lambda: compiled(device))
    found["allocator"] = {"works": True, "says": allocator(device)}
    return found


def flops(kind: Any, device: torch.device) -> str:
    """Speed of matrix products."""
    return f"{measured_flops(Precision(kind, device)) / 1e12:.3g} TFLOP/s"


def int8_flops(device: torch.device, size: int = 512) -> str:
    """Speed of int8 products summed in int32."""
    a, b = (torch.ones(size, size, dtype=torch.int8, device=device) for _ in range(2))
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        torch._int_mm(a, b)[0, 0].item()  # pyright: ignore[reportPrivateImportUsage] - the way to int8 products
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return f"{best / 1e12:.3g} TOP/s"


def attention(backend: SDPBackend, device: torch.device, dtype: torch.dtype) -> str:
    """Forward and backward of causal attention through one kernel."""
    q, k, v = (torch.randn(1, 8, 512, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    with sdpa_kernel(backend):
        begun = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        assert q.grad is not None
        q.grad[0, 0, 0, 0].item()
    return f"{(time.perf_counter() - begun) * 1e3:.1f} ms"


def varlen(device: torch.device) -> str:
    """PyTorch's attention over texts of unequal length in one row."""
    from torch.nn.attention.varlen import varlen_attn

    q = torch.randn(96, 4, 64, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([0, 32, 96], dtype=torch.int32, device=device)
    cast(torch.Tensor, varlen_attn(q, q, q, ends, ends, 64, 64))[0, 0, 0].item()
    return "works"


def fused(device: torch.device) -> str:
    """One kernel for the whole update."""
    weight = torch.ones(8, device=device, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], fused=True).step()
    return "works"


def compiled(device: torch.device) -> str:
    """Whether torch.compile has what it needs."""
    if reason := parallel.why_not_compiled(device):
        raise RuntimeError(reason)
    return "works"


def allocator(device: torch.device) -> str:
    """What gives memory out."""
    if device.type == "cuda":
        return torch.cuda.get_allocator_backend()
    preload = os.environ.get("LD_PRELOAD", "")
    other = next((name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in preload), None)
    if other or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return other or "the system's"
    return "glibc's, told to keep large freed buffers"


def choices(device: torch.device, tried_out: dict[str, Any]) -> dict[str, str]:
    """What `auto` comes to here, and why."""
    dtype = fast_dtype(device)
    why = {
        "cpu": "AMX or AVX512-BF16 is there"
        if dtype == "bf16"
        else "without AMX or AVX512-BF16 bf16 is emulated",
        "cuda": "tensor cores take bf16" if dtype == "bf16" else "this GPU knows no bf16",
    }.get(device.type, "nothing narrower is known to be fast here")
    compiles = device.type == "cuda" and tried_out["torch.compile"]["works"]
    reason = {True: "it works", False: "on a CPU it pays too late"}[compiles]
    if device.type == "cuda" and not compiles:
        reason = "it does not work here"
    working = [name for name in BACKENDS if tried_out.get(f"attention: {name}", {}).get("works")]
    return {
        "device": f"{describe(device)}: the best that torch sees",
        "train.precision": f"{dtype}: {why}",
        "train.compile": f"{'on' if compiles else 'off'}: {reason}",
        "--weights": _weights(device),
        "attention": f"{working[0] if working else 'none'}: the first of torch's kernels that runs",
    }


def _weights(device: torch.device) -> str:
    best = best_weights(device)
    if device.type != "cpu":
        return f"{best}: half the bytes to read for a token"
    if best == "bf16":
        return "bf16: compiled loops read it at full speed, with AMX"
    return f"fp32: bf16 would be slower; {native.why_not() or 'this CPU has no AMX'}"


def fixes(found: dict[str, Any], device: torch.device) -> list[str]:
    """What a person could do, a line each; empty if nothing comes to mind."""
    has, ran, advice = found["machine"], found["probes"], []
    if has["compilers"]["nvidia-smi"] and device.type != "cuda":
        advice.append(
            "there is an NVIDIA driver, but torch sees no GPU: install torch's CUDA build (pytorch.org)"
        )
    if not ran["torch.compile"]["works"] and device.type == "cuda":
        advice.append("torch.compile does not work: install a C compiler (apt install gcc) and triton")
    if device.type == "cpu" and not (has["compilers"]["c++"] or shutil.which("g++")):
        advice.append("no C++ compiler, so --train.compile on does nothing: apt install g++")
    allowed = has["cores_allowed"] or 1
    if has["threads"] < allowed and device.type == "cpu":
        advice.append(f"torch takes {has['threads']} of {allowed} cores: unset OMP_NUM_THREADS")
    if has["disk_free"] < LITTLE_DISK:
        advice.append(
            f"{has['disk_free'] / 1e9:.1f} GB of disk are free here, little for checkpoints: clear some"
        )
    if (has["memory_free"] or LITTLE_MEMORY) < LITTLE_MEMORY:
        advice.append(f"{has['memory_free'] / 1e9:.1f} GB of memory are free: close other programs")
    for gpu in has["gpus"]:
        if gpu["mig"]:
            gb = gpu["memory_total"] / 1e9
            advice.append(f"{gpu['name']} is a slice of a GPU (MIG): plan with its own {gb:.0f} GB")
    return advice


def as_text(found: dict[str, Any]) -> str:
    """The examination, for reading."""
    lines = []
    for title in ("machine", "probes", "chosen"):
        lines += [title]
        for name, value in found[title].items():
            lines.append(f"  {name:<38} {_plain(name, value)}")
    lines += ["what would help", *(f"  {line}" for line in found["fixes"] or ["nothing comes to mind"])]
    return "\n".join(lines)


def _plain(name: str, value: Any) -> str:
    if isinstance(value, dict) and "works" in value:
        return str(value["says"]) if value["works"] else f"no: {beginning(value['says'], 90)}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item) or "none"
    if isinstance(value, list):
        return "; ".join(item if isinstance(item, str) else json.dumps(item) for item in value) or "none"
    if isinstance(value, int) and name.startswith(("memory", "disk")):
        return f"{value / 1e9:.1f} GB"
    return "none" if value is None else str(value)
