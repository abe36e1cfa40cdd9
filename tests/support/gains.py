"""Simulations whose arguments differ; apart from tests that need torch, which their workers do not."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import physgym
from tests.support import toys

UNIT = spaces.Box(-1, 1, (2,), np.float32)


class Gain(physgym.Simulation):
    """Moves by its gain times the action, from a random place; says in the sample which arguments it has."""

    action_space = UNIT
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, gain=1.0, *, wide=9.0, size=2, top=9.0, begun=None, log=None, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(-wide, wide, (size,), np.float32)
        number = spaces.Box(0, top, (), np.float64)
        self.sample_space = spaces.Dict(x=UNIT, y=UNIT, gain=number, index=number)
        self.gain, self.begun, self.log = gain, begun, log

    def begin(self, options):
        if self.begun is not None:
            Path(self.begun).touch()
        self.y, self.count = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0

    def advance(self, action):
        self.x, self.y, self.count = action, np.float32(self.gain / 4) * action, self.count + 1

    def observation(self):
        return self.y.copy()

    def sample(self):
        return {"x": self.x, "y": self.y, "gain": self.gain, "index": 0}

    def outcome(self):
        return 0.0, self.count == 3

    def load_sample(self, sample):
        return sample["x"]

    def inputs(self, action):
        return {"x": action}

    def adopt(self, action, prediction):
        self.x, self.y, self.count = action, prediction["y"], self.count + 1


class Indexed(Gain):
    """Writes down its placement when it is made and closed, and its sample says nothing of it."""

    def __init__(self, gain, log, render_mode=None):
        super().__init__(gain, render_mode=render_mode)
        self.log = log
        self.say("open")

    def say(self, what):
        with Path(self.log).open("a") as file:
            file.write(f"{what} {self.gain:.0f} {self.env_index} {self.env_count}\n")

    def close(self):
        self.say("close")
        super().close()


class Weighed(Gain):
    """Has a constant that may depend on an argument."""

    def __init__(self, gain=1.0, weight=1.0, render_mode=None):
        super().__init__(gain, render_mode=render_mode)
        self.weight = weight

    def constants(self):
        return {"weight": np.array([self.weight])}


class Counting(toys.Line):
    """Changes what it was given."""

    def __init__(self, counts=None):
        super().__init__()
        self.counts = counts

    def reset(self, *, seed=None, options=None):
        self.counts["resets"] += 1
        return super().reset(seed=seed, options=options)


gym.register("toy/Gain-v0", Gain)
