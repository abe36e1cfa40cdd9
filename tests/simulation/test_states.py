"""States of simulations: kept, restored, and continued to the bit."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError
from physgym.generator_state import generator_from, generator_words
from physgym.sample import SampleSpec
from physgym.testing.isolation import ConformanceNote
from physgym.testing.restoring import check_restored, keeps_states
from tests.support import toys

SMALL = {
    "physgym/Spring-v0": {},
    "physgym/Heat-v0": {"size": 8},
    "physgym/Beam-v0": {"nodes": (4, 4, 4)},
    "physgym/Burgers-v0": {"size": 32, "viscosity": (0.05, 0.1)},
    "physgym/BurgersStep-v0": {"size": 32, "viscosity": (0.05, 0.1)},
    "physgym/KuramotoSivashinsky-v0": {"size": 32, "warm_up": 1.0},
    "physgym/NavierStokes2D-v0": {"size": 8},
    "physgym/Darcy-v0": {"size": 9},
    "physgym/Track-v0": {"observation": "state"},
}


class Noisy(physgym.Simulation):
    """A walk with a random part."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    sample_space = spaces.Dict(x=observation_space, action=action_space, next_x=observation_space)
    sample_roles = {"x": "input", "action": "input", "next_x": "target"}  # noqa: RUF012

    def begin(self, options):
        self.x = self.before = self.np_random.normal(size=2)
        self.action = np.zeros(2)

    def advance(self, action):
        self.before, self.action = self.x, action
        self.x = self.x + action + self.np_random.normal(size=2) + self.np_random.integers(10, dtype=np.int32)

    def observation(self):
        return self.x.astype(np.float32)

    def sample(self):
        return {"x": self.before, "action": self.action, "next_x": self.x}

    def state(self):
        return {"x": self.x.copy(), "generator": self.generator_state}

    def set_state(self, state):
        values = self.checked_state(state)
        self.x = self.before = values["x"]
        self.generator_state = values["generator"]


class Forgetful(Noisy):
    def state(self):
        return {"x": self.x.copy()}

    def set_state(self, state):
        self.x = self.checked_state(state)["x"]


class Sharing(Noisy):
    def advance(self, action):
        super().advance(action)
        self.kept[:] = self.x
        self.x = self.kept

    def begin(self, options):
        super().begin(options)
        self.kept = self.x = np.array(self.x)

    def state(self):
        return {"x": self.x, "generator": self.generator_state}


class Half(Noisy):
    set_state = physgym.Simulation.set_state


class Opaque(Noisy):
    def state(self):
        return {"x": object()}


def check(make):
    check_restored(make, SampleSpec.from_env(make()), 5, 20)


@pytest.mark.parametrize("env_id", SMALL)
def test_shipped_simulations_continue_from_a_restored_state(env_id):
    check(lambda: gymnasium.make(env_id, **SMALL[env_id]))


def test_the_random_generator_is_part_of_a_state():
    check(Noisy)
    with pytest.raises(AssertionError, match=r"differs at step 2 after the state of 2 was set.*generator included"):
        check(Forgetful)


def test_a_state_that_steps_change_later_is_found():
    with pytest.raises(
        AssertionError, match=r"must not change after it was returned|to the observation that there was"
    ):
        check(Sharing)


def test_states_are_optional_but_both_hooks_belong_together():
    assert keeps_states(Noisy())
    assert not keeps_states(toys.Tuned())
    assert not keeps_states(toys.Line())
    with pytest.warns(ConformanceNote, match="set_state is missing"):
        assert not keeps_states(Half())
    with pytest.warns(ConformanceNote, match="state is missing"):
        assert not keeps_states(type("Named", (Noisy,), {"state": property(lambda env: env.x)})())
    with pytest.raises(AssertionError, match="arrays and numbers by name"):
        check(Opaque)
    for hook, call in (("state()", lambda env: env.state()), ("set_state(state)", lambda env: env.set_state({}))):
        with pytest.raises(ConfigError, match=r"Tuned has no " + hook.replace("(", r"\(").replace(")", r"\)")):
            call(toys.Tuned())


def test_a_state_of_another_version_is_refused():
    env = gymnasium.make("physgym/Spring-v0").unwrapped
    env.reset(seed=0)
    state = env.state()
    before = env.observation()
    with pytest.raises(ConfigError, match=r"Spring: the state has \['colour', .* this version of the simulation has"):
        env.set_state({**state, "colour": 1.0})
    with pytest.raises(ConfigError, match=r"Spring: the state has \['state'\]"):
        env.set_state({"state": state["state"]})
    with pytest.raises(
        ConfigError, match=r"'state' of the state is float64 \(3,\), this environment has float64 \(2,\)"
    ):
        env.set_state({**state, "state": np.zeros(3)})
    with pytest.raises(ConfigError, match=r"one of steps of 0\.2 s, and this environment takes steps of 0\.1 s"):
        env.set_state({**state, "time_step": 0.2})
    with pytest.raises(ConfigError, match="'mass' of the state is <U1"):
        env.set_state({**state, "mass": "1"})
    np.testing.assert_array_equal(env.observation(), before)
    with pytest.raises(ConfigError, match="reset the environment before its state is set"):
        gymnasium.make("physgym/Spring-v0").unwrapped.set_state(state)


@pytest.mark.parametrize("env_id", SMALL)
def test_the_parameters_after_a_restored_state_are_those_of_its_episode(env_id):
    first, second = (gymnasium.make(env_id, **SMALL[env_id]).unwrapped for _ in range(2))
    first.reset(seed=1)
    second.reset(seed=2)
    known, state = first.parameters, first.state()
    second.set_state(state)
    assert second.parameters.keys() == known.keys()
    for name, value in known.items():
        np.testing.assert_array_equal(second.parameters[name], value)
    assert second.state().keys() == state.keys()


def test_a_state_of_another_precision_is_refused():
    env = gymnasium.make("physgym/Spring-v0").unwrapped
    env.reset(seed=0)
    state = env.state()
    with pytest.raises(ConfigError, match=r"'state' of the state is float32 \(2,\), this environment has float64"):
        env.set_state({**state, "state": state["state"].astype(np.float32)})


def test_texts_of_a_state_may_have_any_length():
    class Named(Noisy):
        name = "a"

        def state(self):
            return {**super().state(), "name": self.name}

    env = Named()
    env.reset(seed=0)
    assert env.checked_state({**env.state(), "name": "longer"})["name"] == "longer"


def test_a_branch_with_another_parameter():
    env = gymnasium.make("physgym/Spring-v0").unwrapped
    env.reset(seed=0, options={"parameters": {"stiffness": 5.0, "position": 1.0, "velocity": 0.0}})
    state, ends = env.state(), []
    for stiffness in (5.0, 20.0):
        env.set_state({**state, "stiffness": stiffness})
        ends.append(env.step(np.zeros(1, np.float32))[0])
    assert ends[1][0] < ends[0][0] < 1
    assert ends[1][2] == 20


def test_generator_words():
    generator = np.random.default_rng(3)
    generator.integers(10, dtype=np.int32)  # half of a number waits
    again = generator_from(generator_words(generator))
    assert again.integers(1000, dtype=np.int32) == generator.integers(1000, dtype=np.int32)
    np.testing.assert_array_equal(again.normal(size=5), generator.normal(size=5))
    with pytest.raises(ConfigError, match="shape"):
        generator_from(np.zeros(5, np.uint64))
    with pytest.raises(ConfigError, match="not that of a Philox"):
        generator_words(np.random.Generator(np.random.Philox(1)))
