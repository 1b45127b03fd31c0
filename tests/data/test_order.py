from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptworks.data.order import Documents, Random, Shuffled, Strided, derive_seed, fixed_windows, permute
from gptworks.errors import ConfigError, DataError


@dataclass(eq=False)
class FakeShard:
    tokens: np.ndarray
    ends: np.ndarray


@dataclass(eq=False)
class FakeSplit:
    """What an Order needs of a Split; every token of document d is d, so that windows show where they came from."""

    shards: list
    name: str = "train"

    @property
    def n_tokens(self):
        return sum(len(shard.tokens) for shard in self.shards)


def split_of(*shards):
    made = []
    document = 0
    for lengths in shards:
        tokens = []
        for length in lengths:
            tokens.append(np.full(length, document, np.uint16))
            document += 1
        made.append(FakeShard(np.concatenate(tokens), np.cumsum(lengths).astype(np.uint64)))
    return FakeSplit(made)


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permute_is_a_permutation(size, seed):
    assert sorted(permute(np.arange(size), size, seed)) == list(range(size))


def test_permute_gives_single_entries_of_the_same_permutation():
    whole = permute(np.arange(1000), 1000, 7)
    assert permute(np.array([3, 999, 41]), 1000, 7).tolist() == whole[[3, 999, 41]].tolist()


def test_permutations_look_random():
    # Fixed points of random permutations are Poisson(1); 200 of them sum to 200 with standard deviation 14.
    fixed = sum(int((permute(np.arange(500), 500, seed) == np.arange(500)).sum()) for seed in range(200))
    assert abs(fixed - 200) < 5 * 14


def test_permute_reaches_far_beyond_what_a_table_could_hold():
    entries = permute(np.arange(100), 10**15, 3)
    assert len(set(entries.tolist())) == 100
    assert entries.max() > 10**14


def test_shuffled_reads_every_token_once_an_epoch():
    split = split_of([5, 3, 9], [4, 11], [7, 2, 2])
    order = Shuffled(split, context=4, batch=3, seed=1)
    for epoch in range(3):
        seen = np.zeros(8, int)
        for row in range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch):
            np.add.at(seen, order.read(row)[:-1], 1)
        sizes = np.array([5, 3, 9, 4, 11, 7, 2, 2])
        assert (seen <= sizes).all()
        assert seen.sum() == order.per_epoch * 4  # all but the tail shorter than a window


def test_shuffled_keeps_documents_whole_and_in_order_within():
    split = split_of([50, 30, 40])
    split.shards[0].tokens[:] = np.arange(120)  # all tokens differ
    order = Shuffled(split, context=119, batch=1, seed=3)
    line = order.read(0)
    starts = [line.tolist().index(first) for first in (0, 50, 80)]
    for start, (first, length) in zip(starts, [(0, 50), (50, 30), (80, 40)], strict=True):
        assert line[start : start + length].tolist() == list(range(first, first + length))


def test_rows_of_an_epoch_are_each_row_once_whatever_the_batch():
    split = split_of([100])
    for batch in (1, 4, 7):
        order = Shuffled(split, context=4, batch=batch, seed=5)
        rows = np.concatenate([order.rows(step) for step in range(40)])[: order.per_epoch]
        assert sorted(rows) == list(range(order.per_epoch))
        assert (
            rows.tolist()
            == np.concatenate([Shuffled(split, 4, 1, 5).rows(s) for s in range(order.per_epoch)]).tolist()
        )


def test_steps_do_not_depend_on_what_was_asked_before():
    order, other = (Shuffled(split_of([40, 60], [33]), 4, 5, 2) for _ in range(2))
    for step in (9, 2, 30):
        other.rows(step)
    assert other.rows(7).tolist() == order.rows(7).tolist()
    assert other.read(50).tolist() == order.read(50).tolist()


def test_epochs_and_seeds_differ():
    order = Shuffled(split_of([400]), 4, 10, 0)
    first, second = order.rows(0), order.rows(10) % order.per_epoch
    assert first.tolist() != second.tolist()
    assert first.tolist() != Shuffled(split_of([400]), 4, 10, 1).rows(0).tolist()


def test_strided_windows_overlap_and_the_last_ends_with_the_text():
    split = split_of([23])
    split.shards[0].tokens[:] = np.arange(23)
    order = Strided(split, context=8, stride=4, batch=2, seed=0)
    windows = [order.read(row) for row in range(order.per_epoch)]
    assert [int(w[0]) for w in windows] == [0, 4, 8, 12, 14]
    assert windows[-1][-1] == 22
    assert all(len(w) == 9 for w in windows)


def test_a_stride_over_the_context_is_refused():
    with pytest.raises(ConfigError, match=r"train\.stride=9 is over model\.context=8"):
        Strided(split_of([50]), context=8, stride=9, batch=1, seed=0)


def test_random_windows_lie_within_the_text():
    order = Random(split_of([10]), context=9, batch=50, seed=0)
    assert all(len(order.read(row)) == 10 for step in range(5) for row in order.rows(step))


def test_document_batches_have_one_length_and_no_padding():
    lengths = [3, 5, 3, 3, 5, 9, 1, 3, 12]
    order = Documents(split_of(lengths), context=7, batch_tokens=8, seed=0)
    seen = []
    for step in range(len(order.batches)):
        rows = order.rows(step)
        texts = [order.read(row) for row in rows]
        assert len({len(text) for text in texts}) == 1
        assert len(rows) == 1 or len(rows) * len(texts[0]) <= 8
        seen += rows.tolist()
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 7, 8]  # document 6 has nothing to predict
    assert len(order.read(8)) == 8  # cut to the context and one


def test_fixed_windows_are_spread_evenly_and_always_the_same():
    split = split_of([1001])
    split.shards[0].tokens[:] = np.arange(1001)
    windows = fixed_windows(split, context=10, tokens=50)
    assert [int(w[0]) for w in windows] == [0, 240, 490, 740, 990]
    assert len(fixed_windows(split, context=10, tokens=10**9)) == 100


@pytest.mark.parametrize(
    "make",
    [
        lambda split: Shuffled(split, 64, 1, 0),
        lambda split: Strided(split, 64, 8, 1, 0),
        lambda split: Random(split, 64, 1, 0),
        lambda split: fixed_windows(split, 64, 10),
    ],
)
def test_a_split_shorter_than_a_row_is_refused(make):
    with pytest.raises(DataError, match=r"the train split has 20 tokens; .*model\.context=64"):
        make(split_of([20]))


def test_derived_seeds_differ_in_every_part():
    assert len({derive_seed(*parts) for parts in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0)]}) == 5
