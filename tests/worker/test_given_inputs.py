"""An environment that takes a person's inputs: at the beginning of a step, from the person or from a record."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym.envs.spring import Spring
from physgym.errors import ConfigError, SceneError
from physgym.scene.live import LiveScene
from physgym.testing import EnvConformance
from physgym.worker.given_inputs import GIVEN, GivenInputs, give_input, inputs_of, with_inputs


class Taker(gym.Env):
    """Keeps what it takes."""

    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def __init__(self):
        self.taken, self.options = [], None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options, self.count = options, 0
        return np.zeros(1), {}

    def step(self, action):
        self.count += 1
        return np.zeros(1), 0.0, False, False, {"count": self.count}

    def scene(self, scene):
        scene.slider("push", -2.0, 2.0)
        scene.button("stop")
        scene.pull("tip", [0.0, 0.0], reach=1.0)

    def take_input(self, name, value):
        self.taken.append((self.count, name, value))


def made(env, steps):
    return [env.step(np.zeros(1))[4].get(GIVEN) for _ in range(steps)]


def test_the_last_value_of_each_input_comes_before_the_next_step():
    env = GivenInputs(Taker())
    env.reset()
    assert made(env, 1) == [None]
    for value in (0.5, 1.0, 1.5):
        assert env.give_input("push", value)
    for _ in range(3):
        env.give_input("stop", True)
    assert made(env, 2) == [[["push", 1.5], ["stop", True]], None]
    assert env.unwrapped.taken == [(1, "push", 1.5), (1, "stop", True)]
    env.give_input("push", 1.5)  # nothing new
    env.give_input("stop", True)
    assert made(env, 1) == [[["stop", True]]]
    assert env.values == {"push": 1.5}
    for name, value in (("push", 3.0), ("gone", 1.0), ("tip", 1.0), (["push"], 1.0)):
        assert not env.give_input(name, value)


def test_what_a_person_leaves_as_it_is_goes_on_in_the_next_episode():
    env = GivenInputs(Taker())
    env.reset()
    env.give_input("push", 1.0)
    env.give_input("tip", [0.5, 0.0, 0.0])
    env.give_input("stop", True)
    made(env, 2)
    env.give_input("tip", [0.0, 0.0, 0.0])
    made(env, 1)
    env.reset()
    assert env.values == {}
    assert made(env, 2) == [[["push", 1.0]], None]


def test_a_record_is_repeated_and_ends_with_its_episode():
    env = GivenInputs(Taker())
    changes = [[1, "push", 1.0], [1, "push", 0.5], [3, "stop", True]]
    env.reset(options={GIVEN: {"changes": changes, "made": 0}, "more": 1})
    assert env.unwrapped.options == {"more": 1}
    env.give_input("push", 2.0)
    assert made(env, 5) == [[["push", 2.0]], None, None, None, None]
    assert env.unwrapped.taken == [
        (0, "push", 2.0),
        (1, "push", 1.0),
        (1, "push", 0.5),
        (3, "stop", True),
    ]
    again = GivenInputs(Taker())
    again.reset(options={GIVEN: {"changes": changes, "made": 0}})
    made(again, 3)
    again.reset()
    assert made(again, 2) == [None, None], "what a record changed is no input of a person"
    assert again.unwrapped.options is None


@pytest.mark.parametrize("change", [[0, "gone", 1.0], [0, "push", 9.0]])
def test_a_record_of_other_inputs_is_refused_in_its_step(change):
    env = GivenInputs(Taker())
    env.reset(options={GIVEN: {"changes": [change], "made": 0}})
    with pytest.raises(ConfigError, match="the record of inputs does not fit Taker"):
        env.step(np.zeros(1))


def test_a_picture_shows_the_values():
    env = GivenInputs(Taker())
    live = LiveScene(env, "Taker")
    env.reset()
    env.give_input("push", 1.0)
    env.step(np.zeros(1))
    live.frame()
    assert live.snapshot["inputs"]["push"]["value"] == 1.0
    env.reset()
    assert live.frame()["inputs"]["push"]["value"] == 0.0


class Deaf(Taker):
    take_input = None
    closed = False

    def close(self):
        type(self).closed = True


class Strange(Taker):
    def scene(self, scene):
        scene.slider("push", 1.0, 0.0)


def test_inputs_that_nothing_takes_are_refused_where_it_is_made():
    with pytest.raises(ConfigError, match="Deaf has no take_input"):
        with_inputs(Deaf)
    assert Deaf.closed
    with pytest.raises(SceneError, match="a slider goes from"):
        GivenInputs(Strange())
    assert with_inputs(Strange).given_inputs == {}, "a picture that fails ends no run"


class Quiet(gym.Wrapper):
    """Adds an input of its own, and hands on the others."""

    def scene(self, scene):
        scene.slider("volume", 0.0, 1.0)

    def take_input(self, name, value):
        if name == "volume":
            self.volume = value
        else:
            self.env.take_input(name, value)


def test_a_wrapper_may_add_inputs():
    env = with_inputs(lambda: Quiet(Taker()))
    assert list(inputs_of(env.described_inputs())) == ["push", "stop", "tip", "volume"]
    env.reset()
    give_input(env, "volume", 0.5)
    give_input(env, "stop", True)
    assert made(env, 1) == [[["volume", 0.5], ["stop", True]]]
    assert (env.env.volume, env.unwrapped.taken) == (0.5, [(0, "stop", True)])
    give_input(Taker(), "stop", True)  # takes none


def test_a_person_changes_nothing_in_steps_that_were_made_before():
    env = GivenInputs(Taker())
    env.give_input("push", 2.0)
    env.reset(options={GIVEN: {"changes": [[1, "push", 1.0]], "made": 3}})
    assert made(env, 5) == [None, None, None, [["push", 2.0]], None]
    assert env.unwrapped.taken == [(1, "push", 1.0), (3, "push", 2.0)]


class Suite(EnvConformance):
    def __init__(self, kind):
        self.make_env = kind


class Forgetful(Spring):
    """Begins an episode with what a person did in the one before."""

    def begin(self, options):
        before = vars(self).get("_push", 0.0)
        super().begin(options)
        self._push = before


def test_conformance_asks_that_inputs_end_with_their_episode():
    Suite(Spring).test_inputs_of_a_person_end_with_their_episode()
    with pytest.raises(AssertionError, match="after one with inputs the observation differs at step"):
        Suite(Forgetful).test_inputs_of_a_person_end_with_their_episode()


class Careless(Taker):
    def take_input(self, name, value):
        value[0] *= 0.5
        self.taken.append(value)


def test_a_simulation_may_change_the_vector_that_it_gets():
    env = GivenInputs(Careless())
    env.reset()
    env.give_input("tip", [1.0, 0.0, 0.0])
    assert made(env, 1) == [[["tip", [1.0, 0.0, 0.0]]]]
    env.unwrapped.taken[0][1] = 9.0
    env.reset()
    assert made(env, 1) == [[["tip", [1.0, 0.0, 0.0]]]]
