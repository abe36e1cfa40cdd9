"""Offline evaluation finds the errors of values that are known, and the actions that nobody took."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError
from physgym.rl.agent import Agent
from physgym.rl.cache import TransitionCache
from physgym.rl.offline import discounted_returns, evaluate_offline
from physgym.rl.running_normalization import RunningNormalization

GAMMA = 0.8


class Chain(gym.Env):
    """Observes its place on a line of 12; the action 1 goes on and earns 1, the others stay and earn nothing."""

    def __init__(self, action_space=None, steps: int = 40):
        self.observation_space = spaces.Box(0, 12, (1,))
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        self.place, self.t = 0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        forward = np.all(np.asarray(action) > 0.5) and np.all(np.asarray(action) < 1.5)
        self.place, self.t = self.place + int(forward), self.t + 1
        seen = np.full(1, self.place, np.float32)
        return seen, float(forward), self.place == 12, self.t == self.steps, {}


class Table(Agent):
    """Knows the value of going on, with an error, and always acts the same."""

    def __init__(self, env, action, error=0.0, scale=1.0):
        super().__init__(env.observation_space, env.action_space, seed=0, device="cpu", gamma=GAMMA)
        self.action, self.error, self.scale = action, error, scale

    def act(self, observations, *, explore):
        count = len(observations["observation"])
        return np.broadcast_to(np.asarray(self.action, self.action_space.dtype), (count, *self.action_space.shape))

    def values(self, observations, actions):
        left = 12 - observations["observation"][:, 0]
        return (self.scale * (1 - GAMMA**left) / (1 - GAMMA) + self.error).astype(np.float32)

    def learn(self, batch): ...

    def state(self): ...

    def set_state(self, state): ...


def recorded(path, env, action, episodes=3) -> TransitionCache:
    recorder = physgym.Recorder(env, path)
    for episode in range(episodes):
        recorder.reset()
        over = False
        while not over:
            *_, terminated, truncated, _ = recorder.step(action(episode, env.t))
            over = terminated or truncated
    recorder.close()
    return TransitionCache(path)


def test_values_are_compared_with_the_returns_that_followed(tmp_path):
    env = Chain()
    cache = recorded(tmp_path / "a", env, lambda *_: 1)
    found = evaluate_offline(Table(env, 1, error=0.25), cache)
    assert len(found.values) == found.transitions == 36
    np.testing.assert_allclose(found.mean_error, 0.25, atol=1e-5)
    np.testing.assert_allclose(found.rms_error, 0.25, atol=1e-5)
    np.testing.assert_allclose(found.correlation, 1, atol=1e-5)
    assert found.uncovered == 0
    assert found.chosen == {1: (36, 0.0)}
    np.testing.assert_array_equal(found.by_episode["steps"], [12, 12, 12])
    assert len(found.calibration) == 10
    assert found.calibration[0][0] < found.calibration[-1][0]
    assert sum(count for *_, count in found.calibration) == 36
    assert found.above == 9 / 36  # at the first three steps
    assert json.loads(json.dumps(found.to_json()))["episode_correlation"] is None  # the episodes are the same
    assert "36 of 36 transitions" in str(found)


def test_steps_before_a_cut_count_only_where_the_rest_weighs_little(tmp_path):
    env = Chain(steps=10)
    cache = recorded(tmp_path / "a", env, lambda *_: 1, episodes=2)
    returns, weight = discounted_returns(cache, cache.rewards, GAMMA)
    np.testing.assert_allclose(weight[:10], GAMMA ** np.arange(10, 0, -1))
    np.testing.assert_allclose(returns[:10], (1 - GAMMA ** np.arange(10, 0, -1)) / (1 - GAMMA))
    assert len(evaluate_offline(Table(env, 1), cache, rest=0.2).values) == 2 * 3
    none = evaluate_offline(Table(env, 1), cache, rest=0.0)
    assert len(none.values) == 0
    assert none.to_json()["mean_error"] is None
    assert "no return of 20 transitions is known, since every episode was cut off" in str(none)
    assert "nan" not in str(none)


def test_normalized_rewards_give_normalized_returns(tmp_path):
    env = Chain()
    cache = recorded(tmp_path / "a", env, lambda *_: 1)
    normalization = RunningNormalization(env.observation_space, 1, observations=False, clip=None)
    normalization.earn(np.array([4.0]), np.array([True]))
    normalization.earn(np.array([0.0]), np.array([True]))
    scale = float(normalization.rewards(np.ones(1))[0])
    assert scale != 1
    found = evaluate_offline(Table(env, 1, scale=scale), cache, normalization=normalization)
    np.testing.assert_allclose(found.mean_error, 0, atol=1e-5)


def test_actions_that_nobody_took_are_named(tmp_path):
    env = Chain()
    cache = recorded(tmp_path / "a", env, lambda episode, t: 2 if episode == 0 and t < 20 else 1)
    with pytest.warns(UserWarning, match=r"^100% of the actions that the agent would take are not covered"):
        assert evaluate_offline(Table(env, 0), cache).uncovered == 1
    with pytest.warns(UserWarning, match="not covered"):  # it was taken at the first place alone
        found = evaluate_offline(Table(env, 2), cache, neighbours=3)
    assert 0.3 < found.uncovered < 0.8
    assert found.chosen == {2: (found.sampled, found.uncovered)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_offline(Table(env, 2), cache, neighbours=3, threshold=0.8)
        evaluate_offline(Table(env, 1), cache)


def test_continuous_actions_are_alike_within_a_part_of_their_range(tmp_path):
    env = Chain(spaces.Box(-2, 2, (2,), np.float32))
    cache = recorded(tmp_path / "a", env, lambda *_: np.ones(2, np.float32))
    assert evaluate_offline(Table(env, [1.3, 0.7]), cache).uncovered == 0
    with pytest.warns(UserWarning, match="not covered"):
        assert evaluate_offline(Table(env, [1.0, 0.5]), cache).uncovered == 1
    found = evaluate_offline(Table(env, [1.0, 0.5]), cache, alike=0.2)
    assert found.uncovered == 0
    assert not found.chosen


def test_wrong_arguments(tmp_path):
    env = Chain()
    cache = recorded(tmp_path / "a", env, lambda *_: 1, episodes=1)
    for wrong in ({"neighbours": 0}, {"samples": 0}, {"threshold": -1}, {"rest": -0.1}, {"alike": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            evaluate_offline(Table(env, 1), cache, **wrong)
