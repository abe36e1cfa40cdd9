"""Rows of steps, written and read in one process."""

import numpy as np
import pytest

from physgym.errors import SampleError
from physgym.running.worker_report import ReportStepsWrapper, read_reported_steps, reported_sample_fields
from physgym.sample import SampleSpec
from tests.running.test_runner import predictor
from tests.support import toys


class Rejecting(toys.Line):
    """Rejects every second step."""

    steps = 0

    def step(self, action):
        self.steps += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.steps % 2 == 0:
            info = {"rejected": f"step {self.steps} is even"}
        return observation, reward, terminated, truncated, info


def wrapped(**more) -> ReportStepsWrapper:
    network = predictor()
    outputs = [network.spec[name] for name in network.outputs]
    return ReportStepsWrapper(
        Rejecting(), network.inputs, outputs, **{"apply": True, "max_steps": 100, "max_rejects": 2, **more}
    )


def test_what_is_read_is_what_happened():
    env = wrapped()
    spec = SampleSpec.from_env(env)
    fields, surrogate = reported_sample_fields(spec)
    assert (set(fields), surrogate) == (set(env.unwrapped.sample_space), False)
    env.reset(seed=0)
    results = [env.step(env.action_space.sample()) for _ in range(4)]
    rows = {name: np.stack([result[4]["sample"][name] for result in results]) for name in spec}
    steps = list(read_reported_steps(rows, [7] * 4, [0, 1, 2, 3], [5] * 4))
    assert [(step.episode, step.seed, step.transition.step) for step in steps] == [(7, 5, i) for i in range(4)]
    assert [step.transition.rejected for step in steps] == ["", "step 2 is even", "", "step 4 is even"]
    assert [step.transition.sample is None for step in steps] == [False, True, False, True]
    assert [step.transition.reward for step in steps] == [float(result[1]) for result in results]
    assert steps[0].prediction is None
    assert steps[0].solver_seconds > 0


def test_too_many_rejected_steps_in_a_row_are_an_error():
    env = wrapped(max_rejects=1)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(SampleError, match="step 2 is even"):
        env.step(env.action_space.sample())
