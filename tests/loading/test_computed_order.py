"""Orders without a list: every number once, the same piece by piece, and random as far as statistics tell."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from physgym.data import Loader, StackedSampler
from physgym.errors import ConfigError
from physgym.loading import computed_order, shuffling
from physgym.loading.computed_order import CHUNK, ComputedPermutation
from physgym.loading.shuffling import LISTED, EpochOrder, permutation
from physgym.sample import Field, SampleSpec

LARGE = LISTED + 12_345
HUGE = 10**9 + 7


GOLDEN = {100_000: [50084, 42548, 24296, 77051, 28980, 54425], 1 << 33: [7150461846, 3744292609, 4624566985]}


class Numbers:
    """Samples that are their own indices."""

    def __init__(self, length):
        self.length = length
        self.spec = SampleSpec([Field("x", (), np.dtype("i8"), "input")])

    def __len__(self):
        return self.length

    def gather(self, indices, fields=None):
        return {"x": np.array(indices)}


@given(length=st.integers(2, 3000), seed=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_every_number_is_there_once(length, seed):
    got = ComputedPermutation(length, seed).at(np.arange(length))
    assert got.dtype == np.int64
    assert (np.sort(got) == np.arange(length)).all()


@pytest.mark.parametrize("length", [1 << 16, (1 << 16) + 1, (1 << 20) - 3, 10**6])
def test_every_number_is_there_once_in_long_orders(length):
    assert (np.bincount(ComputedPermutation(length, (1, 2)).at(np.arange(length)), minlength=length) == 1).all()


@pytest.mark.parametrize("length", [1 << 31, (1 << 32) - 5, 1 << 32, (1 << 32) + 1, 10**13, (1 << 62) - 1])
def test_numbers_of_an_order_beyond_any_memory_are_different_and_within_it(length):
    places = np.concatenate([np.arange(20_000), length - 1 - np.arange(20_000), length // 2 + np.arange(20_000)])
    got = ComputedPermutation(length, (3,)).at(places)
    assert got.min() >= 0
    assert length // 2 < got.max() < length
    assert len(np.unique(got)) == len(places)


def test_orders_are_those_of_checkpoints_that_exist():
    # what is saved is a place in an order: another order would repeat some samples and leave out others
    assert ComputedPermutation(100_000, (0, 0)).at(np.arange(6)).tolist() == GOLDEN[100_000]
    assert ComputedPermutation(1 << 33, (5, 1)).at(np.arange(3)).tolist() == GOLDEN[1 << 33]
    loader = Loader(Numbers(100_000), 6, seed=0)
    assert next(iter(loader))["x"].tolist() == GOLDEN[100_000]


@given(
    length=st.integers(LISTED + 1, LARGE), start=st.integers(0, LISTED), size=st.integers(0, CHUNK + 9),
    world_size=st.integers(1, 3), shuffle=st.booleans(),
)  # fmt: skip
def test_pieces_are_those_of_the_whole(length, start, size, world_size, shuffle):
    whole = EpochOrder(length, shuffle=shuffle, seed=1, epoch=2).indices(0, length)
    for rank in range(world_size):
        part = EpochOrder(length, shuffle=shuffle, seed=1, epoch=2, rank=rank, world_size=world_size)
        first = start // world_size
        stop = min(first + size, len(part))
        assert part.indices(first, stop).tolist() == whole[rank::world_size][first:stop].tolist()
        assert part.indices(0, 5).tolist() == whole[rank::world_size][:5].tolist()  # and back


def test_short_orders_are_lists_as_before():
    for length in (1, LISTED):
        got = EpochOrder(length, shuffle=True, seed=4, epoch=5).indices(0, length)
        assert (got == permutation(length, (4, 5))).all()
        assert "permutation" not in Loader(Numbers(length), 8, seed=4).state_dict()


def test_an_order_takes_no_memory_that_grows():
    tracemalloc.start()
    batches = iter(StackedSampler(Numbers(1 << 40), 256))
    for _ in range(3):
        assert len(np.unique(next(batches))) == 256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


# --- states of before


def resumed(state, length=LARGE, **options):
    loader = Loader(Numbers(length), 100, seed=3, **options)
    loader.load_state_dict(state)
    return loader


def test_a_state_goes_on_in_its_own_order():
    loader = Loader(Numbers(LARGE), 100, seed=3)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["permutation"] == "feistel-6"
    following = next(batches)["x"]
    assert (next(iter(resumed(state)))["x"] == following).all()

    listed = {name: value for name, value in state.items() if name != "permutation"}  # as versions before wrote it
    again = resumed(listed)
    assert (next(iter(again))["x"].numpy() == permutation(LARGE, (3, 0))[300:400]).all()
    assert again.state_dict() == {**listed, "batch": 4}
    again.set_epoch(1)
    assert (next(iter(again))["x"].numpy() == permutation(LARGE, (3, 1))[:100]).all()
    again.load_state_dict(state)
    assert (next(iter(again))["x"] == following).all()


def test_a_short_state_says_nothing_of_what_comes_when_samples_are_added():
    numbers = Numbers(LISTED - 5)
    loader = Loader(numbers, 100, seed=3)
    loader.load_state_dict(loader.state_dict())
    numbers.length = LARGE
    loader.set_epoch(1)
    assert (next(iter(loader))["x"].numpy() == EpochOrder(LARGE, shuffle=True, seed=3, epoch=1).indices(0, 100)).all()


def test_an_order_of_a_later_version_is_refused():
    state = Loader(Numbers(LARGE), 100, seed=3).state_dict()
    with pytest.raises(ConfigError, match="permutation 'other'; update physgym"):
        resumed({**state, "permutation": "other"})


# --- statistics


def uniform(values, bins):
    """Return the probability of frequencies as uneven as those of numbers below `bins`."""
    counts = np.bincount(values, minlength=bins)
    return stats.chi2.sf(((counts - counts.mean()) ** 2).sum() / counts.mean(), bins - 1)


def spread(counts, mean, variance):
    """Return the two-sided probability of so much variance of counts."""
    squares = ((counts - mean) ** 2).sum() / variance
    return 2 * min(stats.chi2.sf(squares, len(counts)), stats.chi2.cdf(squares, len(counts)))


def improbabilities(length, *, seeds=3, batch=256):
    """Return for each statistic the least probability over some seeds, times how many there were."""
    found: dict[str, list[float]] = {}
    count, root = min(length, 1 << 18), math.isqrt(length - 1) + 1
    for seed in range(seeds):
        start = seed * 12_345_677 % max(1, length - count)
        places = np.arange(start, start + count)
        order, other = (ComputedPermutation(length, (7, key)).at(places) for key in (seed, seed + 1))

        def put(name, probability):
            found.setdefault(name, []).append(probability)

        def cut(values, parts):
            return (values.astype(float) * parts / length).astype(int)

        if length > count:
            put("position", uniform(cut(order[:65_536], 256), 256))
        for lag in (1, 2, 8, 256, 4096, root - 1, root, root + 1, 2 * root):
            if lag < count // 2:
                later, sooner = order[lag:], order[:-lag]
                put("difference at a lag", uniform(cut((later - sooner) % length, 256), 256))
                put("pair at a lag", uniform(cut(later, 32) * 32 + cut(sooner, 32), 1024))
                put("low bits at a lag", uniform(later % 32 * 32 + sooner % 32, 1024))
        put("difference of seeds", uniform(cut((order - other) % length, 256), 256))
        batches = order[: count // batch * batch].reshape(-1, batch)
        put("region in batches", spread((batches < length // 16).sum(1), batch / 16, batch * 15 / 256))
        put("stride in batches", spread((batches % 16 == 3).sum(1), batch / 16, batch * 15 / 256))
    first = np.array([ComputedPermutation(length, (11, key)).at(np.arange(3)) for key in range(1000)])
    put("place over seeds", uniform(cut(first[:, 0], 32), 32))
    put("neighbours over seeds", uniform(cut((first[:, 1] - first[:, 0]) % length, 32), 32))
    put("seed after seed", uniform(cut((first[1:, 0] - first[:-1, 0]) % length, 32), 32))
    return {name: min(values) * len(values) for name, values in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("length", [LISTED + 1, 10**6, 10**7 + 3, 10**8, HUGE, (1 << 32) - 5, 1 << 40])
def test_orders_look_random(length):
    assert min(improbabilities(length).values()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [2, 3])
def test_the_statistics_find_too_few_rounds(monkeypatch, rounds):
    monkeypatch.setattr(computed_order, "ROUNDS", rounds)
    assert min(improbabilities(10**6).values()) < 1e-9


def test_listing_begins_where_some_orders_would_be_more_frequent():
    assert shuffling.LISTED >= 4096
