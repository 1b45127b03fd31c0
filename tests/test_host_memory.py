import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_a_trimmed_heap_keeps_only_what_is_used():
    code = """
import torch
from gptworks.host_memory import trim_heap, tune_allocator, used_memory
tune_allocator()
cpu, kept = torch.device("cpu"), []
before = used_memory(cpu)
for size in range(1, 40):
    large = torch.ones(size * 250_000)
    kept.append(torch.ones(1000))  # after the large one: its hole stays in the heap
    del large
full = used_memory(cpu)
trim_heap()
print(full - before, used_memory(cpu) - before)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    full, trimmed = map(int, printed.split())
    assert full > 40_000_000
    assert trimmed < full / 2
