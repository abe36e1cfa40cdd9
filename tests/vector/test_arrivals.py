"""Samples of episodes that come once more after a worker was started again."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.protocol.messages import RolloutResult
from physgym.protocol.step_reports import StepReports
from physgym.vector.arrivals import Arrivals

STEPS = "+--+-+"  # of an episode: which give a sample, and which are rejected


def part(begin: int, end: int) -> RolloutResult:
    """Some of the steps, with reports in which every number is that of its step."""
    steps = np.arange(begin, end)
    rejected = [step for step in steps.tolist() if STEPS[step] == "-"]
    numbers = steps.astype(np.float64)
    places = np.array(rejected, np.int64) - begin
    told = StepReports(numbers, numbers + 0.25, numbers + 0.5, places, [f"no {step}" for step in rejected])
    samples = {"x": np.array([step for step in steps.tolist() if STEPS[step] == "+"], np.float32)}
    return RolloutResult(np.full(len(steps), 3), steps, samples, [], False, reports=told)


@pytest.mark.parametrize("before", range(len(STEPS) + 1))
def test_reports_of_steps_that_came_before_are_left_out(before):
    arrivals = Arrivals()
    arrivals.new(part(0, before))
    got, want = arrivals.new(part(0, len(STEPS))), part(before, len(STEPS))
    assert got.steps.tolist() == want.steps.tolist()
    assert got.samples["x"].tolist() == want.samples["x"].tolist()
    assert got.reports is not None
    for name in StepReports.__slots__:
        assert list(getattr(got.reports, name)) == list(getattr(want.reports, name))
