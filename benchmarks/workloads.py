"""The environments that the vector envs are measured on: one module, so that every library's workers can import it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MEAN_WORK = 1e-3  # seconds of CPU time per step


class Idle(gym.Env[Any, Any]):
    """Does nothing and returns the same preallocated observation each time; its episodes never end.

    What is left is the cost of the vector env.
    """

    observation_space: spaces.Space[Any] = spaces.Box(-1, 1, (4,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation_space.seed(0)
        self.observation = self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Seed the generator."""
        super().reset(seed=seed, options=options)
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return self.observation, 1.0, False, False, {}


class Nested(Idle):
    """An observation of four arrays, not all of one type."""

    observation_space = spaces.Dict(
        {
            "position": spaces.Box(-1, 1, (3,), np.float32),
            "velocity": spaces.Box(-1, 1, (3,), np.float32),
            "contact": spaces.Box(0, 1, (2,), np.uint8),
            "time": spaces.Box(0, 1, (1,), np.float64),
        }
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Seed the generator."""
        observation, info = super().reset(seed=seed, options=options)
        return dict(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing; the dictionary is a new one, since some libraries put more into it."""
        return dict(self.observation), 1.0, False, False, {}


class Pixels(Idle):
    """Four stacked frames, 28 KB."""

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)


class Field(Idle):
    """A vector for each of ten thousand nodes, 120 KB."""

    observation_space = spaces.Box(-1, 1, (10_000, 3), np.float32)


class Busy(Idle):
    """A millisecond of computing: CPU time, so that processes that share a core do not look as if they had two."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Compute."""
        end = time.thread_time() + self._work()
        while time.thread_time() < end:
            pass
        return super().step(action)

    def _work(self) -> float:
        return MEAN_WORK


class Uneven(Busy):
    """The same on average, but exponentially distributed, so that some environments are late."""

    def _work(self) -> float:
        return self.np_random.exponential(MEAN_WORK)


@dataclass(frozen=True)
class Workload:
    """Environments of one kind.

    Args:
        title: As printed.
        make: Makes one.
        any_number: Measured at every number of environments, not only at the largest.
        large: The observations are large: who copies them pays for it.
        waits: Steps take long enough for working on those who are ready to matter.
        module: What must be installed.
    """

    title: str
    make: Callable[[], gym.Env[Any, Any]]
    any_number: bool = False
    large: bool = False
    waits: bool = False
    module: str = "gymnasium"


WORKLOADS = {
    "noop": Workload("no-op, obs 4 floats", Idle, any_number=True),
    "cartpole": Workload("CartPole-v1", functools.partial(gym.make, "CartPole-v1"), any_number=True),
    "dict": Workload("dict of 4 keys", Nested, any_number=True),
    "pixels": Workload("obs (84,84,4) uint8", Pixels, large=True),
    "field": Workload("obs (10000,3) float32", Field, large=True),
    "halfcheetah": Workload("HalfCheetah-v5", functools.partial(gym.make, "HalfCheetah-v5"), module="mujoco"),
    "cpu": Workload("1 ms of CPU", Busy, waits=True),
    "exponential": Workload("exponential, mean 1 ms", Uneven, waits=True),
}
