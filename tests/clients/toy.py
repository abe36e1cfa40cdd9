"""The twin of the simulation in toy.c, in Python."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym.errors import RejectSample
from physgym.simulation import Simulation


class Toy(Simulation):
    """A simulation that does whatever one may do."""

    sample_roles: ClassVar = {"gear": "input", "noise": "target"}
    sample_units: ClassVar = {"noise": "m"}
    parameter_units: ClassVar = {"gain": "1/s"}
    observation_space = spaces.Dict(
        {
            "count": spaces.Discrete(1001),
            "place": spaces.Box(-1e6, 1e6, (2,), np.float64),
            "quick": spaces.Box(0, 1, (1,), np.bool_),
        }
    )
    action_space = spaces.Dict({"gear": spaces.Discrete(4, start=1), "push": spaces.Box(-1, 1, (2,), np.float32)})
    parameter_space = spaces.Dict(
        {"gain": spaces.Box(0.5, 2, (), np.float64), "start": spaces.Box(-3, 3, (2,), np.int32)}
    )
    sample_space = spaces.Dict(
        {
            "gear": spaces.Box(0, 9, (), np.int32),
            "noise": spaces.Box(-np.inf, np.inf, (2, 1), np.float64),
            "picture": spaces.Box(0, 255, (2, 2, 1), np.uint8),
            "step": spaces.Box(0, 10**9, (), np.int64),
            "truncated": spaces.Box(0, 1, (), np.bool_),
        }
    )

    def __init__(self, scale=1.0, trouble=0):
        super().__init__()
        if trouble == 9:
            raise RuntimeError("no such trouble")
        self.scale, self.trouble = scale, trouble

    def begin(self, options):
        start = self.parameters["start"]
        self.place = np.array([start[0] + self.np_random.uniform(-0.5, 0.5), start[1]])
        self.count = 0

    def advance(self, action):
        noise, gear = self.np_random.random(), int(action["gear"])
        self.count += 1
        self.place = self.place + self.scale * self.parameters["gain"] * action["push"].astype(np.float64)
        noise = np.nan if self.trouble == 3 and self.count == 3 else noise
        self.made = {
            "gear": gear,
            "noise": np.array([[noise], [self.place[1]]]),
            "picture": np.array([self.np_random.integers(0, 256) for _ in range(4)], np.uint8).reshape(2, 2, 1),
            "step": self.count,
            "truncated": False,
        }
        if self.trouble == 4 and self.count == 2:
            raise RuntimeError(f"trouble with gear {gear}")
        if self.trouble == 2 or (self.trouble == 1 and gear > 3):
            raise RejectSample(f"gear {gear} is rejected")

    def observation(self):
        return {"count": np.int64(self.count), "place": self.place, "quick": np.abs(self.place[:1]) > 2}

    def sample(self):
        return self.made

    def outcome(self):
        return float(self.place[0]), self.trouble == 5 and self.count == 4


ID = "clients/Toy-v0"
if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=Toy, max_episode_steps=7, disable_env_checker=True)
