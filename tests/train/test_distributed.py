"""Several processes take the same steps as one, with every kind of sharding. (They run workers.py.)"""

import pytest
import torch
from safetensors.torch import load_file

from gptworks.train.param_shards import chunk
from tests import processes
from tests.train import workers

pytestmark = pytest.mark.e2e

FACTS = ("loss", "norm", "tokens", "skipped")
PLAIN = ["ddp-adamw", "zero1-adamw", "fsdp-adamw", "ddp-muon", "zero1-muon", "fsdp-muon"]
OTHERS = [
    "fsdp-adamw-modern-untied",
    "fsdp-muon-checkpointed-kept",
    "zero1-muon-modern-checkpointed",
    "ddp-adamw-poisoned",
    "zero1-muon-poisoned",
    "fsdp-adamw-poisoned",
]
SHORT = [*PLAIN, "fsdp-adamw-poisoned", "zero1-muon-modern-checkpointed", "fsdp-adamw-bf16-narrow"]


def both(folder, size, cases):
    for name in ("one", "many"):
        (folder / name).mkdir()
    workers.main(folder / "one", *cases)
    processes.run(size, "-m", "tests.train.workers", str(folder / "many"), *cases)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return both(tmp_path_factory.mktemp("two"), 2, SHORT)


def results(folder, case, size):
    one = load_file(folder / "one" / f"{case}-0.safetensors")
    return one, [load_file(folder / "many" / f"{case}-{rank}.safetensors") for rank in range(size)]


def assert_the_same(one, every):
    for found in every:
        assert found.keys() == one.keys()
        assert all(torch.equal(found[name].nan_to_num(), every[0][name].nan_to_num()) for name in found)
        assert torch.equal(found["tokens"], one["tokens"])
        assert torch.equal(found["skipped"], one["skipped"])
        for name in ("loss", "norm"):
            torch.testing.assert_close(found[name], one[name], rtol=2e-6, atol=0, equal_nan=True)
        for name in found.keys() - set(FACTS):
            # Adam divides by the gradient's size, so rounding of the smallest ones shows in steps of 1e-2
            torch.testing.assert_close(found[name], one[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in SHORT if "bf16" not in case])
def test_two_processes_end_with_the_losses_and_weights_of_one(two, case):
    assert_the_same(*results(two, case, 2))


def test_a_non_finite_gradient_on_one_process_is_skipped_by_all(two):
    _, every = results(two, "fsdp-adamw-poisoned", 2)
    for found in every:
        assert found["skipped"].tolist() == [0, 0, 1, 0, 0, 0]


def test_gathering_weights_in_bf16_changes_losses_by_rounding_only(two):
    one, (many, _) = results(two, "fsdp-adamw-bf16-narrow", 2)
    torch.testing.assert_close(many["loss"], one["loss"], rtol=2e-3, atol=0)


@pytest.mark.slow  # two dozen starts of torch
@pytest.mark.parametrize("size", [2, 4])
def test_more_processes_and_more_options_take_the_steps_of_one(tmp_path, size):
    cases = [*PLAIN, *OTHERS] if size == 4 else OTHERS
    both(tmp_path, size, cases)
    for case in cases:
        assert_the_same(*results(tmp_path, case, size))


@pytest.mark.slow  # compiling takes half a minute
def test_compiled_blocks_take_the_same_steps_with_each_kind_of_sharding(tmp_path):
    cases = [f"{kind}-adamw-compiled" for kind in ("ddp", "zero1", "fsdp")]
    both(tmp_path, 2, cases)
    for case in cases:
        assert_the_same(*results(tmp_path, case, 2))


@pytest.mark.parametrize(("n", "size"), [(10, 4), (7, 2), (3, 4), (8, 4), (1, 3)])
def test_rows_are_split_like_torch_chunk(n, size):
    theirs = [len(part) for part in torch.arange(n).chunk(size)]
    assert [len(chunk(n, rank, size)) for rank in range(size)] == theirs + [0] * (size - len(theirs))
    assert [row for rank in range(size) for row in chunk(n, rank, size)] == list(range(n))
