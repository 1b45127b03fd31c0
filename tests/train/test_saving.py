import threading

import pytest
import torch

from gptworks.train.saving import Pending
from gptworks.world import World

ALONE = World(0, 1, torch.device("cpu"))


def test_a_checkpoint_is_written_beside_what_goes_on_meanwhile(tmp_path):
    may_end, where = threading.Event(), []

    def work():
        assert may_end.wait(30)
        where.append(threading.current_thread())

    pending = Pending(work, tmp_path, ALONE)
    pending.go_on()
    assert where == []
    may_end.set()
    assert pending.wait() == tmp_path
    assert where[0] is not threading.current_thread()


def test_what_need_not_go_on_beside_is_done_when_it_is_waited_for(tmp_path):
    where = []
    assert Pending(lambda: where.append(threading.current_thread()), tmp_path, ALONE).wait() == tmp_path
    assert where == [threading.current_thread()]


@pytest.mark.parametrize("beside", [True, False])
def test_what_goes_wrong_while_it_is_written_is_said_when_it_is_waited_for(tmp_path, beside):
    def work():
        raise OSError(28, "No space left on device")

    pending = Pending(work, tmp_path, ALONE)
    if beside:
        pending.go_on()
    with pytest.raises(OSError, match="No space left"):
        pending.wait()
