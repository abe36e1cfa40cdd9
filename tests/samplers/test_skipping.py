"""Actions that are passed over leave policy and generator as if they had been drawn one by one."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.cube import UniformDraws, skip_uniform
from physgym.episode import ActionGenerator, episode_policy
from physgym.policies import SkippingPolicy
from physgym.samplers import Gaussian, Grid, LatinHypercube, Sobol, Uniform

SPACES = {
    "box": spaces.Box(-1, 2, (3,), np.float32),
    "many": spaces.Box(-1, 1, (4000,), np.float64),
    "mixed": spaces.Dict({"a": spaces.Box(0, 1, (), np.float64), "b": spaces.Discrete(5), "c": spaces.MultiBinary(2)}),
    "open": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "text": spaces.Text(4),
}


class Toy(gymnasium.Env):
    def __init__(self, space):
        self.action_space = self.observation_space = space


def policies(name, space):
    if name == "own":
        return episode_policy(Toy(SPACES[space]))
    samplers = {"uniform": Uniform, "gaussian": Gaussian, "sobol": Sobol, "lhs": LatinHypercube, "grid": Grid}
    return samplers[name]().actions(SPACES[space], 3)


def flat(action):
    return [np.asarray(part) for part in action.values()] if isinstance(action, dict) else [np.asarray(action)]


def state_of(rng):
    state = rng.bit_generator.state
    arrays = {name: state["state"][name].tolist() for name in ("counter", "key")}
    waits = state["buffer"].tolist()[state["buffer_pos"] :]
    return arrays, state["buffer_pos"], waits, state["has_uint32"]


CASES = [
    *[(name, "box") for name in ("uniform", "gaussian", "own", "sobol", "lhs")],
    *[(name, "mixed") for name in ("uniform", "gaussian", "own", "grid")],
    *[("uniform", "many"), ("gaussian", "open"), ("own", "open"), ("own", "text")],
]


@pytest.mark.parametrize(("name", "space"), CASES)
@settings(max_examples=12, deadline=None)  # scipy is loaded for sequences
@given(parts=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 4)), max_size=4), seed=st.integers(0, 2**40))
def test_actions_after_some_that_are_passed_over_are_those_that_would_be_drawn(name, space, parts, seed):
    begin = policies(name, space)
    skipping, drawing = begin(5), policies(name, space)(5)
    assert isinstance(skipping, SkippingPolicy)
    one, other = ActionGenerator().of(seed), ActionGenerator().of(seed)
    for passed, taken in parts:
        skipping.skip(one, passed)
        for _ in range(passed):
            drawing(None, other)
        for _ in range(taken):
            for a, b in zip(flat(skipping(None, one)), flat(drawing(None, other)), strict=True):
                np.testing.assert_array_equal(a, b)
        assert state_of(one) == state_of(other)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["philox", "pcg"]),
    before=st.integers(0, 9),
    halves=st.integers(0, 3),
    count=st.integers(0, 300),
)
def test_uniform_numbers_are_passed_over_wherever_the_generator_is(kind, before, halves, count):
    one, other = (
        np.random.Generator(np.random.Philox(7) if kind == "philox" else np.random.PCG64(7)) for _ in range(2)
    )
    for rng in (one, other):
        rng.random(before)
        rng.integers(0, 100, halves, dtype=np.uint32)  # half a number of 64 bits each
    skip_uniform(one, count)
    other.random(count)
    for _ in range(3):  # what waits of both kinds goes on
        np.testing.assert_array_equal(one.integers(0, 1000, 3, np.uint32), other.integers(0, 1000, 3, np.uint32))
        np.testing.assert_array_equal(one.random(3), other.random(3))


def test_a_million_steps_are_passed_over_without_drawing_them(monkeypatch):
    policy, rng = policies("uniform", "box")(0), ActionGenerator().of(9)
    drawn, draw = [], UniformDraws.__call__

    def counted(self, rng, count):
        drawn.append(count)
        return draw(self, rng, count)

    monkeypatch.setattr(UniformDraws, "__call__", counted)
    policy.skip(rng, 1_000_003)
    action = policy(None, rng)
    assert sum(drawn) <= 64
    points = np.random.Generator(np.random.Philox(key=[9, 0])).random((1_000_064, 3))[1_000_003]
    np.testing.assert_array_equal(action, (3 * points - 1).astype(np.float32))
