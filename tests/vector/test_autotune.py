from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import SocketVectorEnv
from physgym.errors import SampleError
from physgym.system.cores import usable_cores
from physgym.vector.autotune import best_num_workers, choose


@pytest.mark.parametrize(
    ("num_envs", "mean", "deviation", "cores", "workers"),
    [
        (64, 1e-7, 0, 2, 0),  # no process pays
        (2, 5e-6, 0, 2, 0),
        (64, 5e-6, 0, 2, 2),
        (2, 1e-3, 0, 2, 2),
        (1, 1.0, 0, 16, 0),  # one environment computes no faster elsewhere
        (64, 1e-3, 0, 1, 0),  # nor do many on one core
        (64, 1e-3, 1e-3, 2, 8),  # uneven steps: finer groups
        (5, 1e-3, 1e-3, 2, 5),
        (64, 1e-5, 1e-5, 2, 2),  # too short for that
    ],
)
def test_the_number_of_workers_follows_from_the_time_of_a_step(num_envs, mean, deviation, cores, workers):
    assert choose(num_envs, mean, deviation, cores) == workers


class Ending(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    closed = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def close(self):
        Ending.closed += 1


def test_measuring_closes_its_environment_and_survives_short_episodes():
    before = Ending.closed
    assert best_num_workers([Ending] * 8, 2, None) == 0
    assert Ending.closed == before + 1


@pytest.mark.slow
def test_auto_keeps_cheap_environments_here_and_gives_costly_ones_workers():
    with SocketVectorEnv([Ending] * 2, num_workers="auto") as envs:
        assert envs.num_workers == 0
    with physgym.make_vec("CartPole-v1", 2, num_workers="auto") as envs:
        assert envs.reset(seed=0)[0].shape == (2, 4)

    class Costly(Ending):
        def step(self, action):
            np.linalg.svd(np.ones((200, 200)))
            return super().step(action)

    with SocketVectorEnv([Costly] * 4, num_workers="auto") as envs:
        assert bool(envs.num_workers) == (usable_cores() > 1)


@pytest.mark.slow
def test_measuring_answers_predictions_and_names_errors():
    class Asking(Ending):
        predictor = None

        def step(self, action):
            self.predictor({"x": np.zeros(1)})
            return super().step(action)

    with SocketVectorEnv([Asking] * 2, num_workers="auto", predictor=lambda fields: fields) as envs:
        envs.reset()
        envs.step([0, 1])
    with pytest.raises(SampleError, match="no network"):
        SocketVectorEnv([Asking] * 2, num_workers="auto")

    class Broken(Ending):
        def step(self, action):
            raise ValueError("no mesh")

    with pytest.raises(ValueError, match="environment 0 raised ValueError in measuring its step: no mesh"):
        SocketVectorEnv([Broken] * 2, num_workers="auto")
    assert Ending.action_space.seed(5) == 5
    first = Ending.action_space.sample()
    Ending.action_space.seed(5)
    SocketVectorEnv([Ending] * 2, num_workers="auto").close()
    assert Ending.action_space.sample() == first
