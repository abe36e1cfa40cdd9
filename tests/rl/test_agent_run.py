"""Runs of an agent in one environment: episodes, seeds, figures, callbacks, and Ctrl-C."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.rl.agent_run import AgentRun, AgentRunner


class Short(gym.Env):
    """Ends episode n after n + 1 steps, each of which is rewarded by 2; notes its seeds."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.seeds, self.closed = [], False

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.left = len(self.seeds)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert action == 1
        self.left -= 1
        return np.zeros(1, np.float32), 2, self.left == 0, False, {}

    def close(self):
        self.closed = True


class One:
    """A policy that always takes action 1, and counts the episodes that it hears of."""

    def __init__(self):
        self.episodes = 0

    def wrap(self, env):
        return env

    def reset(self):
        self.episodes += 1

    def act_preprocessed(self, observation):
        assert observation.shape == (1,)
        return 1


def run(steps=7, callbacks=(), **options):
    """Return the figures of a run, the environment, and the policy."""
    env, policy = Short(), One()
    with AgentRunner(policy, env, **options) as runner:
        found = runner.run(steps, callbacks=callbacks, progress=False)
    assert env.closed
    return found, env, policy


def test_episodes_are_run_one_after_the_other():
    found, env, policy = run(8)
    assert (found.steps, found.returns, found.lengths, found.begun) == (8, [2.0, 4.0, 6.0], [1, 2, 3], 4.0)
    assert policy.episodes == len(env.seeds) == 4
    assert str(found) == "8 steps, 3 episodes ended: mean return 4, from 2 to 6, mean length 2"
    assert str(AgentRun(steps=3, begun=1.5)) == "3 steps, no episode ended; return so far 1.5"


def test_seeds_follow_from_the_seed_and_the_number_of_the_episode():
    seeds = run(10, seed=3)[1].seeds
    assert len(set(seeds)) == 4
    assert run(10, seed=3)[1].seeds == seeds
    assert run(10, seed=4)[1].seeds[0] not in seeds
    assert run(3, seed=3, first=2)[1].seeds == seeds[2:4]
    with pytest.raises(ConfigError, match="seed"):
        run(1, seed=-1)


def test_ctrl_c_ends_it_and_callbacks_hear_of_the_end():
    class Stop(Callback):
        events: list[str]

        def __init__(self):
            self.events = []

        def sample_end(self, pipeline, sample):
            assert pipeline.stepping
            self.events.append("sample")
            if len(self.events) == 3:
                raise KeyboardInterrupt

        def prediction_end(self, pipeline):
            self.events.append("end")

        def close(self):
            self.events.append("close")

    stop = Stop()
    found, *_ = run(None, [stop])
    assert found.interrupted
    assert found.steps == 3
    assert stop.events == ["sample"] * 3 + ["end", "close"]
