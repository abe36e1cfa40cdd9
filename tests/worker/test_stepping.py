"""Steps of a group of environments: what actions they get, and which flags their rows say."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym import SocketVectorEnv
from physgym.errors import SampleError


class Scripted(gym.Env):
    """Returns the flags and the reward that its action stands for, and keeps the actions that it was given."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 100, (2,), np.float64)
    answers: tuple[Any, ...] = (
        (1.5, False, False), (np.float32(0.1), np.False_, np.False_), (np.float64(2), np.True_, np.False_),
        (3, False, True), (np.nan, 1, 0.0), (0.0, "yes", False), (0.0, False, None),
    )  # fmt: skip

    def __init__(self, dtype: Any = np.int64, start: int = 0) -> None:
        self.action_space = spaces.Discrete(7, start=start, dtype=dtype)
        self.start = start
        self.given: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2), {}

    def step(self, action: Any) -> Any:
        self.given.append(action)
        reward, terminated, truncated = self.answers[int(action - self.start) % 7]
        return np.full(2, float(action)), reward, terminated, truncated, {}


def local(*envs: Scripted, **kwargs: Any) -> SocketVectorEnv:
    return SocketVectorEnv([lambda env=env: env for env in envs], num_workers=0, **kwargs)


@pytest.mark.parametrize(("dtype", "start"), [(np.int64, 0), (np.int8, -3), (np.uint16, 5)])
def test_actions_are_numbers_of_numpy_also_those_that_the_space_has_not(dtype, start):
    env = Scripted(dtype, start)
    given = [start, start + 1, start + 1, start + 14]
    with local(env) as envs:
        envs.reset()
        for action in given:
            envs.step(np.array([action], dtype))
    assert env.given == given
    assert {type(action) for action in env.given} == {dtype}


def test_rows_have_the_flags_of_this_step_and_of_no_earlier_one():
    with local(Scripted(), Scripted()) as envs:
        envs.reset()
        seen = []
        for actions in [(2, 3), (2, 3), (0, 1), (4, 0), (1, 1), (0, 0)]:
            _, rewards, terminations, truncations, _ = envs.step(np.array(actions))
            seen.append((rewards.tolist(), terminations.tolist(), truncations.tolist()))
    none = [False, False]
    assert seen[0] == ([2.0, 3.0], [True, False], [False, True])
    assert seen[1] == ([0.0, 0.0], none, none)  # the resets
    assert seen[2] == ([1.5, float(np.float32(0.1))], none, none)
    assert np.isnan(seen[3][0][0])
    assert seen[3][1:] == ([True, False], none)
    assert seen[4] == ([0.0, float(np.float32(0.1))], none, none)
    assert seen[5] == ([1.5, 1.5], none, none)


def test_rows_of_steps_without_lockstep_have_their_own_flags():
    with local(Scripted(), Scripted()) as envs:
        envs.reset()
        for actions, row in [((2, 3), 0), ((2, 3), 0), ((0, 0), 1), ((3, 3), 0), ((0, 0), 0)]:
            envs.send(np.array(actions[row : row + 1]), [row])
            *_, rewards, terminations, truncations, _, ids = envs.recv()
            ended = (actions[row] == 2, actions[row] == 3)
            reset = not rewards.any()
            assert ids.tolist() == [row]
            assert (terminations.tolist(), truncations.tolist()) == (
                ([False], [False]) if reset else ([ended[0]], [ended[1]])
            )


@pytest.mark.parametrize(("action", "text"), [(5, "terminated must be True or False"), (6, "truncated must be")])
def test_what_is_no_flag_is_refused(action, text):
    with local(Scripted()) as envs:
        envs.reset()
        with pytest.raises(SampleError, match=text):
            envs.step(np.array([action]))
