"""A simulation of your own.

A ball is thrown through air: from the first line of the simulation to a trained network. Samples in a folder that stays
are played by ``physgym view FOLDER``.
"""

import tempfile
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

import physgym
from physgym.testing import check_env

POINTS = 32  # of the trajectory


class Ball(gymnasium.Env):
    """Action: speed (m/s), angle (rad), drag coefficient (1/m). Observation: the flight, (32, 2), m, over 2 s."""

    action_space = spaces.Box(np.float32([10, 0.3, 0]), np.float32([30, 1.3, 0.1]))
    observation_space = spaces.Box(-np.inf, np.inf, (POINTS, 2), np.float32)
    sample_space = spaces.Dict({"throw": action_space, "flight": observation_space})
    sample_roles = {"throw": "input", "flight": "target"}
    sample_units = {"flight": "m"}
    render_mode = None

    def __init__(self, render_mode=None):
        self.flight = np.zeros((POINTS, 2), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.flight.copy(), {}

    def step(self, action):
        speed, angle, drag = np.asarray(action, float)
        x, v, dt = np.zeros(2), speed * np.array([np.cos(angle), np.sin(angle)]), 2.0 / POINTS / 20
        for point in range(POINTS):
            for _ in range(20):  # semi-implicit Euler
                v = v + dt * (np.array([0, -9.81]) - drag * np.linalg.norm(v) * v)
                x = x + dt * v
            self.flight[point] = x
        sample = {"throw": np.float32(action), "flight": self.flight.copy()}
        return self.flight.copy(), 0.0, True, False, {"sample": sample}


gymnasium.register("example/Ball-v0", Ball)

if __name__ == "__main__":
    from physgym.nn import MLP
    from physgym.runner import Runner
    from physgym.training import Trainer

    check_env("example/Ball-v0")
    with tempfile.TemporaryDirectory() as folder:
        dataset = physgym.generate("example/Ball-v0", Path(folder) / "data", samples=2000, num_workers=2)
        trainer = Trainer(MLP.from_spec(dataset.spec, hidden=(64, 64)), dataset, epochs=30, session=folder)
        trainer.fit()
        with Runner("example/Ball-v0", trainer.predictor, seed=1) as runner:
            print(runner.run(100).errors["flight"].summary)  # episodes that the network has not seen
