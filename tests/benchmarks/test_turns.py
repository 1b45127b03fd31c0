import importlib.util

import pytest

WORKER = """
import json, pathlib, sys
case = json.loads(sys.argv[2])
assert sys.argv[1] == "--worker"
log = pathlib.Path(case["log"])
log.write_text(log.read_text() + case["name"])
seen = log.read_text().count(case["name"])
if case["name"] == "b" and seen == 2:
    raise MemoryError("not enough for b")
print("something else")
print(json.dumps({"speed": 10 * seen * seen, "kind": case["name"], "peak": None}))
"""


@pytest.fixture
def turns(repository):
    spec = importlib.util.spec_from_file_location("turns", repository / "benchmarks" / "turns.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contenders_take_turns_and_one_that_fails_is_out(turns, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    log = tmp_path / "log"
    log.write_text("")
    cases = {name: {"name": name, "log": str(log)} for name in ("a", "b")}
    found = turns.take_turns(str(tmp_path / "worker.py"), cases, rounds=3)
    assert log.read_text() == "ababa"
    assert found["a"] == {"speed": 40, "kind": "a", "peak": None}  # the median of 10, 40, 90
    assert found["b"] == {"failed": "status 1: MemoryError: not enough for b"}
