import torch

from gptworks import devices, host_memory
from gptworks.planning import doctor


def test_a_probe_that_fails_says_why_in_one_line():
    def broken():
        raise RuntimeError("no kernel image\nis available\n")

    assert doctor.run_probe(broken) == {"works": False, "says": "no kernel image"}
    assert doctor.run_probe(lambda: 3) == {"works": True, "says": 3}
    assert doctor.run_probe(lambda: 1 / 0) == {"works": False, "says": "division by zero"}


def test_a_reason_that_is_long_ends_with_a_word_and_a_kernel_that_torch_has_not_is_one():
    def missing():
        raise NotImplementedError("Could not run 'aten::x' with arguments from the 'CPU' backend. This could")

    assert doctor.run_probe(missing) == {"works": False, "says": "torch has no kernel for it on this device"}
    long = {"works": False, "says": "because " * 20}
    text = doctor.as_text({"machine": {}, "probes": {"it": long}, "chosen": {}, "fixes": []})
    assert f"no: {'because ' * 11}...\n" in text


def test_what_is_chosen_is_what_training_chooses():
    cpu = torch.device("cpu")
    found = doctor.choices(cpu, {"attention: flash": {"works": True}, "torch.compile": {"works": True}})
    assert found["train.precision"].startswith(devices.fast_dtype(cpu))
    assert found["train.compile"].startswith("off")
    assert found["attention"].startswith("flash")


HEALTHY = {
    "machine": {
        "compilers": {"nvidia-smi": None, "c++": "/usr/bin/c++"},
        "cores_allowed": 2,
        "threads": 2,
        "disk_free": 1e12,
        "memory_free": 1e12,
        "gpus": [],
    },
    "probes": {"torch.compile": {"works": True}},
}


def test_a_healthy_machine_needs_nothing_and_each_fault_has_its_line():
    cpu = torch.device("cpu")
    assert doctor.fixes(HEALTHY, cpu) == []
    gpu = {"name": "H100 MIG 1g.10gb", "mig": True, "memory_total": 10e9}
    for change, words in (
        ({"threads": 1}, "1 of 2 cores"),
        ({"disk_free": 1e9}, "1.0 GB of disk"),
        ({"memory_free": 1e9}, "1.0 GB of memory"),
        ({"compilers": {"nvidia-smi": "/usr/bin/nvidia-smi", "c++": "c++"}}, "CUDA build"),
        ({"gpus": [gpu]}, "slice of a GPU"),
    ):
        (line,) = doctor.fixes(HEALTHY | {"machine": HEALTHY["machine"] | change}, cpu)
        assert words in line


def test_a_containers_limit_is_read_in_both_versions_of_control_groups(tmp_path, monkeypatch):
    new, old, none = tmp_path / "new", tmp_path / "old", tmp_path / "none"
    (old / "memory").mkdir(parents=True)
    for folder in (new, none):
        folder.mkdir()
    (new / "memory.max").write_text("3000\n")
    (new / "memory.current").write_text("1000\n")
    (new / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    (old / "memory" / "memory.limit_in_bytes").write_text("4000\n")
    (old / "memory" / "memory.usage_in_bytes").write_text("1500\n")
    (old / "memory" / "memory.stat").write_text("cache 9\ntotal_inactive_file 100\n")
    (none / "memory.max").write_text("max\n")
    assert [host_memory.cgroup_limit(folder) for folder in (new, old, none)] == [3000, 4000, None]
    assert [host_memory._cgroup_free(folder) for folder in (new, old)] == [2200, 2600]
    monkeypatch.setattr(host_memory, "_meminfo_available", lambda: 7)
    assert host_memory._cgroup_free(none) == 7
    (old / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert host_memory.cgroup_limit(old) is None
