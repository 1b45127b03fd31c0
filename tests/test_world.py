import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import DistError, TCPStore

from gptworks import world
from gptworks.errors import ResourceError

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def client():
    """More and more connections to one store, as each process has its own."""
    server = TCPStore("localhost", 0, None, is_master=True, wait_for_workers=False)
    return lambda: TCPStore("localhost", server.port, None, is_master=False, wait_for_workers=False)


def test_all_processes_learn_one_name_and_another_when_they_are_started_again(client):
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            started = [threads.submit(world.meet, client(), rank, 4, PATIENCE) for rank in (2, 0, 3, 1)]
            (name,) = {one.result() for one in started}
        names.append(name)
    assert len(set(names)) == 3


def test_what_a_dead_process_left_in_the_store_is_not_taken_for_a_live_one(client):
    with pytest.raises(DistError):  # it said hello, and went before anyone answered
        world.meet(client(), 1, 2, timedelta(milliseconds=50))
    with pytest.raises(ResourceError, match=r"process 1 did not start within --train\.wait-minutes 0\.005"):
        world.meet(client(), 0, 2, timedelta(seconds=0.3))
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(world.meet, client(), rank, 2, PATIENCE) for rank in (0, 1))
        assert first.result() == second.result()


def test_what_a_person_says_of_onednn_s_memory_counts(monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    world.keep_few_products(16)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "16"
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    world.keep_few_products(16)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_a_trimmed_heap_holds_what_is_used_alone():
    code = """
import torch
from gptworks import world
world.tune_allocator()
cpu, kept = torch.device("cpu"), []
before = world.held_memory(cpu)
for size in range(1, 40):
    large = torch.ones(size * 250_000)
    kept.append(torch.ones(1000))  # after the large one: its hole stays in the heap
    del large
full = world.held_memory(cpu)
world.trim_heap()
print(full - before, world.held_memory(cpu) - before)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    full, trimmed = map(int, said.split())
    assert full > 40_000_000
    assert trimmed < full / 2
