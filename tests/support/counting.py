"""A simulation that counts its steps; apart from tests that need torch, which its workers do not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import physgym


class Counting(physgym.Simulation):
    """Writes a byte for every step; every `reject`-th step gives no sample."""

    action_space = observation_space = spaces.Box(-1, 1, (2,), np.float32)
    sample_space = spaces.Dict(x=action_space)
    sample_roles = {"x": "input"}  # noqa: RUF012
    parameter_space = spaces.Dict(k=spaces.Box(0, 1, (), np.float32))

    def __init__(self, log=None, pause=0.0, length=10**9, reject=0, short=0, spec=None):
        super().__init__()
        self.log = log or os.environ["STEPS"]  # so that it is no part of the simulation
        self.pause, self.length, self.reject, self.short = pause, length, reject, short
        if spec:
            self.spec = EnvSpec("Counting-v0", max_episode_steps=spec)

    def begin(self, options):
        self.t, self.state = 0, self.np_random.random(2, np.float32)

    def advance(self, action):
        time.sleep(self.pause)
        self.t += 1
        self.state = self.state * np.float32(0.9) + action
        with (Path(self.log) / str(os.getpid())).open("ab") as file:
            file.write(b"x")
        if self.reject and self.t % self.reject == 0:
            raise physgym.RejectSample("on purpose")

    def observation(self):
        return self.state

    def sample(self):
        return {"x": self.state}

    def outcome(self):
        return 0.0, self.t >= (self.short if self.short and self.parameters["k"] < 0.5 else self.length)


class Echo(Counting):
    """Has something to predict, and is told of the prediction."""

    sample_space = spaces.Dict(x=Counting.action_space, y=Counting.action_space)
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def sample(self):
        return {"x": np.clip(self.state, -1, 1), "y": np.clip(2 * self.state, -1, 1)}

    def apply_prediction(self, prediction):
        pass
