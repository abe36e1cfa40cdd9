"""Stacks made while acting are those of Gymnasium's wrapper, and those of windows over recorded frames."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import physgym
from physgym.errors import ConfigError, SampleError
from physgym.rl.frame_stacks import FrameStacks

STACK = 4


class Clock(gym.Env):
    """Observes (environment, episode, step) in two fields; episodes have different lengths, some below a stack."""

    observation_space = spaces.Dict({"time": spaces.Box(-1, 1e6, (3,)), "step": spaces.Discrete(99)})
    action_space = spaces.Discrete(2)

    def __init__(self, number=0):
        self.number, self.episode = number, -1

    def _seen(self):
        return {"time": np.float32([self.number, self.episode, self.t]), "step": self.t}

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action):
        self.t += 1
        return self._seen(), 0.0, self.t >= 2 + 3 * (self.number + self.episode) % 7, False, {}


def columns(observations):
    return {f"observation/{name}": np.asarray(value) for name, value in observations.items()}


def test_stacks_are_those_of_gymnasium_and_of_windows(tmp_path):
    count = 3
    makers = [lambda n=n: Clock(n) for n in range(count)]
    env = physgym.Recorder(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), tmp_path / "a")
    peers = [gym.wrappers.FrameStackObservation(make(), STACK, padding_type="reset") for make in makers]
    stacks, made = FrameStacks(STACK, count), {}
    assert stacks.space(Clock.observation_space) == peers[0].observation_space
    seen, _ = env.reset(seed=0)
    expected, begins = [peer.reset()[0] for peer in peers], np.ones(count, np.bool_)
    for _ in range(40):
        found = stacks(columns(seen), begins)
        for number, stack in enumerate(expected):
            for name, value in stack.items():
                np.testing.assert_array_equal(found[f"observation/{name}"][number], value)
                assert found[f"observation/{name}"].dtype == value.dtype
        made |= {tuple(stack[-1].tolist()): stack for stack in found["observation/time"]}
        seen, _, begins, _, _ = env.step(np.zeros(count, np.int64))
        expected = [peer.step(0)[0] for peer in peers]
        if begins.any():
            seen, _ = env.reset(options={"reset_mask": begins})
            expected = [
                peer.reset()[0] if over else old for peer, old, over in zip(peers, expected, begins, strict=True)
            ]
    env.close()
    windows = physgym.SampleDataset(tmp_path / "a").windows(inputs=STACK, targets=1, begin="repeat")
    stored = windows.gather(np.arange(len(windows)))["observation/time"]
    assert len(stored) == len(made) == 40 * count
    for stack in stored:
        np.testing.assert_array_equal(stack, made[tuple(stack[-1].tolist())])


def test_some_environments_at_a_time_and_a_resume():
    stacks, whole = FrameStacks(2, 3), FrameStacks(2, 3)
    for one in (stacks, whole):
        one({"x": np.float32([1, 2, 3])}, np.ones(3))
    found = stacks({"x": np.float32([30, 10])}, np.array([False, True]), np.array([2, 0]))
    np.testing.assert_array_equal(found["x"], [[3, 30], [10, 10]])
    found["x"][:] = -1  # a copy
    again = FrameStacks(2, 3)
    again.load_state_dict(stacks.state_dict())
    now = {"x": np.float32([0, 0, 0])}
    for one in (again, stacks):
        np.testing.assert_array_equal(one(now, np.zeros(3))["x"], [[10, 0], [2, 0], [30, 0]])
    assert whole({"x": np.float32([5])}, np.zeros(1), np.array([1]))["x"].tolist() == [[2, 5]]


def test_a_stack_of_one_is_the_observation_itself():
    space = spaces.Box(0, 1, (2,))
    stacks = FrameStacks(1, 2)
    given = {"x": np.ones((2, 2))}
    np.testing.assert_array_equal(stacks(given, np.ones(2))["x"], given["x"])
    assert stacks.space(space) == space


def test_what_does_not_fit_is_an_error():
    stacks = FrameStacks(2, 2)
    with pytest.raises(SampleError, match=r"environments \[1\] have begun no episode"):
        stacks({"x": np.zeros(2)}, np.array([True, False]))
    stacks({"x": np.zeros(2)}, np.ones(2))
    for wrong in ({"x": np.zeros((2, 1))}, {"y": np.zeros(2)}, {"x": np.zeros(2, np.float32)}):
        with pytest.raises(SampleError, match="the stacks are of"):
            stacks(wrong, np.zeros(2))
    with pytest.raises(ConfigError, match="stacks of 2 frames in 3 environments"):
        FrameStacks(2, 3).load_state_dict(stacks.state_dict())
    with pytest.raises(ConfigError, match="stack must be at least 1"):
        FrameStacks(0, 2)
