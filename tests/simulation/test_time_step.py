"""The time of a step, where episodes differ in it."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.errors import ConfigError, WorkerError

QUICK = {"num_workers": 0, "progress": False, "samples": 4, "max_steps": 2}


class Base(physgym.Simulation):
    """Waits; rejects the first step."""

    action_space = observation_space = spaces.Box(-1, 1, (), np.float32)
    sample_space = spaces.Dict(x=action_space)
    sample_roles = {"x": "input"}  # noqa: RUF012
    parameter_space = spaces.Dict(dt=spaces.Box(0.1, 0.9, (), np.float64))

    def begin(self, options):
        self.steps = 0

    def advance(self, action):
        self.steps += 1
        if self.steps == 1:
            raise physgym.RejectSample("the first one")

    def observation(self):
        return np.float32(0)

    def sample(self):
        return {"x": 0.0}


class Parameter(Base):
    @property
    def time_step(self):
        return self.parameters["dt"]


class Attribute(Base):
    @property
    def time_step(self):
        return self.dt

    def begin(self, options):
        super().begin(options)
        self.dt = self.parameters["dt"]


class Changing(Base):
    time_step = 0.1

    def begin(self, options):
        super().begin(options)
        self.time_step = float(self.parameters["dt"])


class Fixed(Base):
    time_step = 0.5


@pytest.mark.parametrize("kind", [Parameter, Attribute])
def test_one_that_only_an_episode_knows_is_not_recorded(tmp_path, kind):
    dataset = physgym.generate(kind, tmp_path, **QUICK)
    assert dataset.time_step is None
    with pytest.raises(ConfigError, match="does not say how long a step is"):
        dataset.index("time")


def test_one_that_changes_after_it_was_asked_is_an_error(tmp_path):
    with pytest.raises(WorkerError, match=r"Changing: a step takes 0\.\d+ s in this episode, and took 0\.1 s before"):
        physgym.generate(Changing, tmp_path, **QUICK)
    env = Changing()
    for seed in range(2):
        env.reset(seed=seed)  # nobody has asked
    assert env.step_seconds == env.parameters["dt"]


def test_a_key_that_is_missing_for_another_reason_is_an_error():
    env = type("Wrong", (Base,), {"time_step": property(lambda env: env.parameters["nothing"])})()
    assert env.step_seconds is None
    env.reset(seed=0)
    with pytest.raises(KeyError, match="nothing"):
        _ = env.step_seconds


def test_the_clock_counts_rejected_steps(tmp_path):
    dataset = physgym.generate(Fixed, tmp_path, **QUICK)
    np.testing.assert_array_equal(dataset.index("step"), [1] * 4)
    np.testing.assert_array_equal(dataset.index("time"), [1.0] * 4)
