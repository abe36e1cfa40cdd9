"""An environment whose episodes reject the steps that their seed says."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# of an episode with this seed: which steps give a sample (+) and which are rejected (-)
PATTERNS = ("+-+", "-", "----", "-++-", "+", "++--+", "--+")


class Patterned(gym.Env):
    """Every sample, reward and reason says which step it is of.

    Args:
        shape: Of the sample's field.
    """

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, shape: tuple[int, ...] = (2,)) -> None:
        self.sample_space = spaces.Dict({"x": spaces.Box(-np.inf, np.inf, shape, np.float32)})
        self.shape = shape

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.left, self.name = list(PATTERNS[seed % len(PATTERNS)]), 100.0 * (seed % len(PATTERNS))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        gives, self.name = self.left.pop(0) == "+", self.name + 1
        info: dict[str, Any] = {"rejected": f"no {self.name:g}"}
        if gives:
            info = {"sample": {"x": np.full(self.shape, self.name, np.float32)}}
        return np.zeros(1, np.float32), self.name, False, not self.left, info


def expected(seed: int, episode: int | None = None) -> list[tuple[int, int, float, str, bool]]:
    """Return episode, step, reward, reason and end of every step of an episode."""
    pattern = PATTERNS[seed % len(PATTERNS)]
    names = [100.0 * (seed % len(PATTERNS)) + 1 + step for step in range(len(pattern))]
    return [
        (
            seed if episode is None else episode,
            step,
            name,
            "" if pattern[step] == "+" else f"no {name:g}",
            step == len(pattern) - 1,
        )
        for step, name in enumerate(names)
    ]
