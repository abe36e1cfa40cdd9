"""The round trip of a prediction that an environment asks for in the middle of a step, in microseconds.

The network is the identity on one field of 16 float32, so that what is measured is the way there and back.
"""

from __future__ import annotations

import argparse
import statistics
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from physgym import SocketVectorEnv

ASKS = 200


class Asking(gym.Env):
    """A step asks many times and returns the mean time of one answer as reward, in microseconds."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)
    predictor = None

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        fields = {"x": np.zeros(16, np.float32)}
        start = time.perf_counter()
        for _ in range(ASKS):
            self.predictor(fields)
        return np.zeros(1, np.float32), (time.perf_counter() - start) / ASKS * 1e6, False, False, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{'where':<34}{'us per answer':>14}{'least':>8}{'most':>8}")
    for name, workers, kwargs in (
        ("in this process", 1, {"num_workers": 0}),
        ("one worker", 1, {"num_workers": 1}),
        ("one worker, tcp", 1, {"num_workers": 1, "transport": "tcp"}),
        ("two workers that ask together", 2, {"num_workers": 2}),
    ):
        with SocketVectorEnv([Asking] * workers, predictor=lambda fields: fields, **kwargs) as envs:
            envs.reset()
            envs.step([0] * workers)
            times = [float(envs.step([0] * workers)[1].max()) for _ in range(arguments.repeats)]
        print(f"{name:<34}{statistics.median(times):>14.0f}{min(times):>8.0f}{max(times):>8.0f}", flush=True)


if __name__ == "__main__":
    main()
