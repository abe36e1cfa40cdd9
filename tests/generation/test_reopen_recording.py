"""`physgym.reopen` of what a Recorder wrote: a step of an episode whose seed is known, and errors for all others."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import DiscretizeAction

import physgym
from physgym.errors import ConfigError, DatasetError
from physgym.real_time import METADATA
from physgym.samplers import Uniform


def record(path, env, steps, *, seeds=True, **options):
    """Random actions; every episode has a seed, or only the first one, which is 0."""
    env = physgym.Recorder(env, path, **options)
    env.action_space.seed(1)
    env.reset(seed=5 if seeds else 0)
    for step in range(steps):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset(seed=6 + step if seeds else None)
    env.close()
    return physgym.SampleDataset(path)


def row_of(dataset, episode, step):
    return int(np.flatnonzero((dataset.index("episode") == episode) & (dataset.index("step") == step))[0])


def check_step(dataset, episode, step, **options):
    """Reopen a step, make it, and compare what follows with the recording."""
    env, action = physgym.reopen(dataset, episode, step, **options)
    observation, reward, terminated, truncated, _ = env.step(action)
    now, after = (dataset[row_of(dataset, episode, step + more)] for more in (0, 1))
    np.testing.assert_array_equal(observation, after["observation"])
    assert (reward, terminated, truncated) == (now["reward"], now["terminated"], now["truncated"])
    env.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: gym.make("CartPole-v1", max_episode_steps=12),
        lambda: DiscretizeAction(gym.make("physgym/Track-v0", observation="state", tracks=(3, 9)), bins=(3, 2)),
    ],
)
def test_a_recorded_step_is_made_again(tmp_path, make):
    dataset = record(tmp_path / "a", make(), 40)
    last = int(dataset.index("step")[dataset.index("episode") == 0].max())
    for episode, step in ((0, 0), (0, 1), (0, last - 1), (int(dataset.index("episode").max()), 0)):
        check_step(dataset, episode, step)
    with pytest.raises(ConfigError, match=f"step {last} of episode 0 is its last observation"):
        physgym.reopen(dataset, 0, last)
    with pytest.raises(ConfigError, match="has no step 900"):
        physgym.reopen(dataset, 0, 900)
    with pytest.raises(ConfigError, match="leave actions and predictor out"):
        physgym.reopen(dataset, 0, 0, actions=Uniform())


@pytest.mark.parametrize("seeds", [3, 0])
def test_of_a_vector_environment_the_episodes_after_an_autoreset_have_no_seed(tmp_path, seeds):
    inner = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync", max_episode_steps=9)
    env = physgym.Recorder(inner, tmp_path / "a")
    env.reset(seed=seeds)
    env.action_space.seed(0)
    for _ in range(25):
        env.step(env.action_space.sample())
    env.close()
    dataset = physgym.SampleDataset(tmp_path / "a")
    assert dataset.index("episode").max() >= 3
    for episode in (0, 1):  # a seed of 0 that was given is one
        check_step(dataset, episode, 4, env="CartPole-v1", env_kwargs={"max_episode_steps": 9})
    for step in (0, 4):
        with pytest.raises(DatasetError, match=r"its seed 0 does: nobody gave that reset a seed, as in an autoreset"):
            physgym.reopen(dataset, 2, step, env="CartPole-v1", env_kwargs={"max_episode_steps": 9})


def test_a_reset_with_options_is_no_reset_with_the_seed_alone(tmp_path):
    env = physgym.Recorder(gym.make("physgym/Track-v0", observation="state"), tmp_path / "a")
    env.reset(seed=2, options={"parameters": {"track": 17}})
    env.step(np.ones(2, np.float32))
    env.close()
    with pytest.raises(DatasetError, match="its seed 2 does: nobody gave that reset a seed, or it had options"):
        physgym.reopen(tmp_path / "a", 0, 0)


class Drift(gym.Env):
    """Begins always in the same place, and drifts in another way each time it is made."""

    observation_space = spaces.Box(-9, 9, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float64)
    made = 0

    def __init__(self):
        Drift.made += 1
        self.drift = Drift.made

    def reset(self, *, seed=None, options=None):
        self.x = np.zeros(1)
        return self.x.copy(), {}

    def step(self, action):
        self.x += action / 100 + 0.01 * self.drift
        return self.x.copy(), float(self.x[0]), False, False, {}


def test_an_environment_that_does_something_else_is_an_error_also_after_the_step(tmp_path):
    dataset = record(tmp_path / "a", Drift(), 8)
    with pytest.raises(ConfigError, match=r"does not say how its environment is made.*Pass env="):
        physgym.reopen(dataset, 0, 3)
    with pytest.raises(DatasetError, match="episode 0, step 0: the simulation gives another 'reward'"):
        physgym.reopen(dataset, 0, 0, env=Drift)
    with pytest.raises(ConfigError, match="no fields"):
        physgym.reopen(dataset, 0, 0, env=Nested)


def test_what_ran_in_real_time_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Drift, "metadata", {METADATA: True})
    dataset = record(tmp_path / "a", Drift(), 3)
    with pytest.raises(ConfigError, match="in real time, which does not repeat itself"):
        physgym.reopen(dataset, 0, 0, env=Drift)


class Nested(gym.Env):
    observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (1,), np.float64)})
    action_space = Drift.action_space

    def reset(self, *, seed=None, options=None):
        return {"x": np.zeros(1)}, {}


class Gap(Drift):
    """Is nowhere for a moment."""

    def __init__(self):
        self.drift, self.count = 1, 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset()

    def step(self, action):
        self.count += 1
        observation, *result = super().step(action)
        return (observation * (np.nan if self.count == 4 else 1), *result)


def test_what_lies_behind_a_row_that_was_left_out_is_not_reopened(tmp_path):
    dataset = record(tmp_path / "a", Gap(), 8, nonfinite="reject")
    env, _ = physgym.reopen(dataset, 0, 2, env=Gap)
    assert env.unwrapped.count == 2
    for step in (4, 6):
        with pytest.raises(ConfigError, match="step 4 of episode 0 was left out of the recording"):
            physgym.reopen(dataset, 0, step, env=Gap)
