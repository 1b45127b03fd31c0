from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import DistError, TCPStore

from gptworks.errors import ResourceError
from gptworks.processes import rendezvous

TIMEOUT = timedelta(seconds=20)


@pytest.fixture
def client():
    """More and more connections to one store, as each process has its own."""
    server = TCPStore("localhost", 0, None, is_master=True, wait_for_workers=False)
    return lambda: TCPStore("localhost", server.port, None, is_master=False, wait_for_workers=False)


def test_all_processes_get_one_name_and_another_one_after_a_restart(client):
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(rendezvous, client(), rank, 4, TIMEOUT) for rank in (2, 0, 3, 1)]
            (name,) = {future.result() for future in futures}
        names.append(name)
    assert len(set(names)) == 3


def test_what_a_dead_process_left_in_the_store_is_not_taken_for_a_live_one(client):
    with pytest.raises(DistError):  # it said hello and died before anyone answered
        rendezvous(client(), 1, 2, timedelta(milliseconds=50))
    with pytest.raises(ResourceError, match=r"process 1 .* --train\.comm-timeout-minutes 0\.005"):
        rendezvous(client(), 0, 2, timedelta(seconds=0.3))
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(rendezvous, client(), rank, 2, TIMEOUT) for rank in (0, 1))
        assert first.result() == second.result()
