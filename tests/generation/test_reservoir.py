from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.generation import reservoir as module
from physgym.generation.named_samples import SampleNames
from physgym.generation.reservoir import Reservoir
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (2, 3), np.dtype("f4"), "input"), Field("flag", (), np.dtype("?"), "target")])
RULES = ("fifo", "firo", "reservoir")


def rows(numbers):
    """Samples and names that follow from their numbers."""
    numbers = np.asarray(numbers, np.int64)
    samples = {"x": numbers[:, None, None] + np.zeros((2, 3), np.float32), "flag": numbers % 2 == 1}
    return samples, SampleNames(numbers // 10, numbers % 10, (numbers // 10).astype(np.uint64) + np.uint64(2**63))


def numbers_of(drawn):
    """The numbers of what was drawn, whose parts must belong together."""
    samples, names = drawn
    numbers = 10 * names.episodes + names.steps
    want, named = rows(numbers)
    for name, column in samples.items():
        assert column.dtype == SPEC[name].dtype
        np.testing.assert_array_equal(column, want[name])
    np.testing.assert_array_equal(names.seeds, named.seeds)
    return numbers.tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("capacity", [1, 7, 50])
def test_a_buffer_obeys_its_rule(rule, capacity):
    rng = np.random.default_rng(capacity)
    buffer = Reservoir(SPEC, capacity, rule, seed=1)
    came, out, left = 0, [], []  # of `left` each is drawn once
    for _ in range(400):
        seen = set(out)
        if rule == "reservoir":
            unseen = came - len(seen)
            assert buffer.unseen == unseen
            assert buffer.room == capacity - unseen
        else:
            assert sorted(left) == sorted(set(range(came)) - seen)
            assert buffer.unseen == len(buffer) == len(left)
            assert buffer.room == capacity - len(left)
        assert len(buffer) <= capacity
        count = int(rng.integers(0, buffer.room + 1))
        if rng.random() < 0.5:
            buffer.add(*rows(np.arange(came, came + count)))
            left += range(came, came + count)
            came += count
        elif len(buffer):
            wanted = int(rng.integers(1, 10))
            drawn = numbers_of(buffer.draw(wanted))
            assert len(drawn) == wanted if rule == "reservoir" else len(drawn) == min(wanted, len(left))
            assert all(0 <= number < came for number in drawn)
            if rule == "fifo":
                assert drawn == left[: len(drawn)]
            if rule != "reservoir":
                assert len(set(drawn)) == len(drawn)
                left = [number for number in left if number not in drawn]
            out += drawn
        times = np.bincount(out) if out else np.zeros(1, int)
        assert buffer.received == came
        assert buffer.drawn == len(out)
        assert buffer.distinct == np.count_nonzero(times)
        assert buffer.most == times.max()
    assert came > 50
    if rule == "firo" and capacity > 1:
        assert out != sorted(out)
    if rule == "reservoir":  # nothing has been lost before it was seen
        while buffer.unseen:
            out += numbers_of(buffer.draw(10))
        assert set(out) == set(range(came))


def test_a_reservoir_draws_all_alike_and_replaces_any_that_was_seen():
    buffer = Reservoir(SPEC, 10, seed=3)
    buffer.add(*rows(np.arange(10)))
    counts = np.bincount(numbers_of(buffer.draw(20_000)), minlength=10)
    assert (abs(counts - 2000) < 200).all()
    left = np.zeros(10)
    for trial in range(300):
        buffer = Reservoir(SPEC, 10, seed=trial)
        buffer.add(*rows(np.arange(10)), seen=True)
        assert buffer.room == 10
        assert buffer.received == buffer.unseen == 0
        buffer.add(*rows(np.arange(10, 14)))
        assert buffer.room == 6
        there = set(numbers_of(buffer.draw(300)))
        assert there >= set(range(10, 14))
        left += [number not in there for number in range(10)]
    assert left.sum() == 4 * 300
    assert (abs(left - 120) < 40).all()


def test_a_firo_draw_is_random():
    firsts = []
    for seed in range(200):
        buffer = Reservoir(SPEC, 10, "firo", seed=seed)
        buffer.add(*rows(np.arange(10)))
        firsts += numbers_of(buffer.draw(3))
    assert (abs(np.bincount(firsts, minlength=10) - 60) < 30).all()


def test_a_saved_generator_draws_on():
    buffer = Reservoir(SPEC, 20, seed=5)
    buffer.add(*rows(np.arange(20)))
    buffer.draw(3)
    state = json.loads(json.dumps(buffer.state_dict()))
    other = Reservoir(SPEC, 20, seed=6)
    other.load_state_dict(state)
    assert (other.received, other.drawn) == (20, 0)
    other.add(*rows(np.arange(20)))
    assert numbers_of(buffer.draw(30)) == numbers_of(other.draw(30))


def test_wrong_arguments_say_what_to_change(monkeypatch):
    with pytest.raises(ConfigError, match=r"rule must be one of \('fifo', 'firo', 'reservoir'\), not 'lifo'"):
        Reservoir(SPEC, 5, "lifo")
    with pytest.raises(ConfigError, match="capacity must be at least 1 sample, not 0"):
        Reservoir(SPEC, 0)
    huge = SampleSpec([Field("x", (1 << 20,), np.dtype("f8"), "input")])
    with pytest.raises(ConfigError, match=r"of 10000000 samples of 8.39 MB takes 83886080 MB.*lower its capacity"):
        Reservoir(huge, 10_000_000)
    monkeypatch.setattr(module, "available_memory", lambda: None)
    assert Reservoir(SPEC, 5).room == 5
    for state in ({}, {"received": 1}, {**Reservoir(SPEC, 5).state_dict(), "generator": {}}):
        with pytest.raises(ConfigError, match="not the state of a buffer"):
            Reservoir(SPEC, 5).load_state_dict(state)
