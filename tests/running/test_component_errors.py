"""Errors of rollouts by component, against what numpy says of all rollouts at once."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.runner import RolloutEvaluation
from physgym.running.autoregression import PredictedTrajectory
from physgym.running.component_errors import ComponentSums
from physgym.running.trajectories import Trajectory
from physgym.sample import Field
from tests.support.rollouts import Turn, predictor, turning

STEPS = 4


def rollouts(field, lengths=(4, 4, 2), *, masked=False):
    """Rollouts whose components have other sizes each; their arrays, NaN where there is none."""
    generator = np.random.default_rng(0)
    found, predicted, true = [], [], []
    for length in lengths:
        values = generator.normal(size=(2, STEPS, *field.shape)) * 10.0 ** np.arange(field.shape[-1])
        if field.dtype.kind == "c":
            values = values * np.exp(1j * generator.normal(size=values.shape))
        values = values.astype(field.dtype)
        there = generator.random((STEPS, *field.shape)) < 0.7 if masked else np.ones((STEPS, *field.shape), bool)
        there[length:] = False
        trajectory = Trajectory(0, 0, 0, np.arange(length), {})
        present = there[:length] if masked else None
        sides = [{field.name: value[:length]} for value in values]
        found.append(PredictedTrajectory(trajectory, *sides, 0, {field.name: present}, None))
        for side, value in zip((predicted, true), values, strict=True):
            side.append(np.where(there, value, np.nan))
    return found, np.array(predicted), np.array(true)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("field", "axis"),
    [
        (Field("y", (3,), np.dtype("f8"), "target", "m, m, rad"), -1),
        (Field("y", (5, 2), np.dtype("f4"), "target", "m"), -1),
        (Field("y", (2, 4, 4), np.dtype("f8"), "target", "K, m/s", dimensions=2), -3),
        (Field("y", (3,), np.dtype("c16"), "target"), -1),
    ],
)
def test_each_component_is_measured_by_its_own_deviation(field, axis, masked):
    if masked and field.dtype.kind == "c":
        pytest.skip("numpy's mean of what is there is of real numbers")
    found, predicted, true = rollouts(field, masked=masked)
    sums = ComponentSums(field, STEPS)
    for one in found:
        sums.add(one)
    errors = sums.errors()
    others = tuple(place for place in range(2, predicted.ndim) if place != predicted.ndim + axis)
    rmse = np.sqrt(np.nanmean(np.abs(predicted - true) ** 2, (0, *others)))
    # the deviation of each entry from its mean over the steps, as of the metric nrmse
    squares = np.abs(true - np.nanmean(true, (0, 1))) ** 2
    spread = np.sqrt(np.nanmean(squares, (0, 1, *others)))
    np.testing.assert_allclose(errors.rmse, rmse, rtol=1e-5)
    np.testing.assert_allclose(errors.nrmse, rmse / spread, rtol=1e-5)
    assert len(errors.units) == field.shape[axis]
    assert errors.mixed == ("," in field.unit)


def test_a_divergence_is_infinite_from_there_on():
    field = Field("y", (2,), np.dtype("f8"), "target")
    found, *_ = rollouts(field, (4, 4))
    found[0].predicted["y"][2:] = np.nan
    found[0].diverged = 3
    sums = ComponentSums(field, STEPS)
    for one in found:
        sums.add(one)
    assert np.isinf(sums.errors().nrmse).any(1).tolist() == [False, False, True, True]


def test_fields_without_components_have_none():
    for shape in ((), (1,), (100,), (4, 4)):
        assert not ComponentSums.possible(Field("y", shape, np.dtype("f4"), "target"))


def test_a_rollout_has_them(tmp_path):
    data = turning(tmp_path / "d", [12, 5])
    report = RolloutEvaluation(data).measure(predictor(Turn(1.01)), 12)
    found = report.components["next_state"]
    true = data[:]["next_state"]
    first = np.array([true[0], true[12]])  # of both episodes
    np.testing.assert_allclose(found.rmse[0], 0.01 * np.sqrt((first**2).mean(0)), rtol=1e-9)
    np.testing.assert_allclose(found.nrmse[0], found.rmse[0] / true.std(0), rtol=1e-9)
    assert found.units == ("m", "m")
    assert "components of next_state: root mean squared error over the standard deviation of each" in str(report)
