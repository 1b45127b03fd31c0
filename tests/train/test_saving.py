import threading

import pytest
import torch

from gptworks.processes import World
from gptworks.train.saving import PendingCheckpoint

ALONE = World(0, 1, torch.device("cpu"))


def test_a_started_checkpoint_is_written_in_another_thread(tmp_path):
    may_end, where = threading.Event(), []

    def work():
        assert may_end.wait(30)
        where.append(threading.current_thread())

    pending = PendingCheckpoint(work, tmp_path, ALONE)
    pending.start()
    assert where == []
    may_end.set()
    assert pending.wait() == tmp_path
    assert where[0] is not threading.current_thread()


def test_a_checkpoint_that_is_not_started_is_written_by_wait(tmp_path):
    where = []
    assert (
        PendingCheckpoint(lambda: where.append(threading.current_thread()), tmp_path, ALONE).wait()
        == tmp_path
    )
    assert where == [threading.current_thread()]


@pytest.mark.parametrize("background", [True, False])
def test_wait_raises_what_went_wrong_while_writing(tmp_path, background):
    def work():
        raise OSError(28, "No space left on device")

    pending = PendingCheckpoint(work, tmp_path, ALONE)
    if background:
        pending.start()
    with pytest.raises(OSError, match="No space left"):
        pending.wait()
