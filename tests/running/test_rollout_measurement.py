"""Rollouts of networks whose errors are known."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from physgym import SampleDataset, reopen
from physgym.data.learned import Learned
from physgym.data.statistics import Statistics
from physgym.data.times import time_attribute
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.nn import Changes, Predictor
from physgym.nn.transforms import Transform, Transforms
from physgym.runner import RolloutEvaluation
from physgym.sample import Field, SampleSpec
from tests.support.rollouts import STORED, TURN, WIDE, Turn, predictor, spec, turning

EPS = 0.01


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three episodes of 12, 5 and 3 steps without pushes."""
    return turning(tmp_path_factory.mktemp("rollouts") / "d", [12, 5, 3], time_step=0.25)


def test_the_error_of_a_factor_grows_by_its_powers(data):
    report = RolloutEvaluation(data).measure(predictor(Turn(1 + EPS)), 12)
    expected = (1 + EPS) ** np.arange(1, 13) - 1
    np.testing.assert_allclose(report.mean(), expected, rtol=1e-10)
    np.testing.assert_allclose(report.errors["relative_l2"]["next_state"][0], expected, rtol=1e-10)
    for part in (0.0, 0.1, 0.5, 1.0):
        np.testing.assert_allclose(report.quantile(part), expected, rtol=1e-10)


def test_episodes_that_end_leave_the_later_horizons(data):
    report = RolloutEvaluation(data).measure(predictor(Turn()), 12)
    assert report.counts.tolist() == [3] * 3 + [2] * 2 + [1] * 7
    assert report.reached.tolist() == [12, 5, 3]
    errors = report.errors["relative_l2"]["next_state"]
    assert np.isnan(errors).sum(1).tolist() == [0, 7, 9]
    assert "2 episodes end earlier, from step 3 on" in str(report)
    few = RolloutEvaluation(data).measure(predictor(Turn()), 4, episodes=[2, 0])
    assert few.episodes.tolist() == [0, 2]
    assert few.counts.tolist() == [2, 2, 2, 1]


def test_other_inputs_are_those_of_the_same_step(tmp_path):
    pushed = turning(tmp_path / "d", [9, 6], push=0.5)
    for size in (1, 2, 64):
        report = RolloutEvaluation(pushed).measure(predictor(Turn()), 9, batch_size=size)
        assert report.mean().max() < 1e-14


def test_a_state_that_is_stored_once_is_compared_with_the_next_row(tmp_path):
    once = turning(tmp_path / "d", [9, 6], push=0.5, once=True)
    network = predictor(Turn())
    report = RolloutEvaluation(once).measure(network, 8)
    assert report.mean().max() < 1e-14
    assert report.reached.tolist() == [8, 5]  # the last state has no row behind it
    with pytest.raises(ConfigError, match="no episode has 9 steps to predict: the longest one has 8"):
        RolloutEvaluation(once).measure(network, 9)


def test_the_first_horizon_of_windows_is_the_first_predicted_step(tmp_path):
    """Two given states, three predicted: errors of the given ones are in no average."""
    data = turning(tmp_path / "d", [11, 4], push=0.3, time_step=0.5)

    class Three(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

        def forward(self, state, push):  # (n, 2, 2) and (n, 4, 2)
            turn, now, found = torch.tensor(TURN), state[:, -1], []
            for step in range(3):
                now = now @ turn.T + push[:, 1 + step]
                found.append(now)
            return self.factor * torch.stack(found, 1)

    fields = SampleSpec(
        [
            Field("state", (2, 2), WIDE, "input"),
            Field("push", (4, 2), WIDE, "input"),
            Field("next_state", (3, 2), WIDE, "target"),
        ]
    )
    report = RolloutEvaluation(data).measure(predictor(Three(1.0), fields), 9)
    assert report.mean().max() < 1e-14
    assert report.reached.tolist() == [9, 3]
    assert report.seconds.tolist() == [0.5 * h for h in range(1, 10)]
    report = RolloutEvaluation(data).measure(predictor(Three(1.5), fields), 3)
    np.testing.assert_allclose(report.mean(), 0.5, rtol=1e-12)


def test_a_missing_step_ends_an_episode(tmp_path):
    data = turning(tmp_path / "d", [9, 6], missing=[(0, 4), (1, 0)])
    report = RolloutEvaluation(data).measure(predictor(Turn()), 5)
    assert report.reached.tolist() == [4, 5]
    assert report.cut == 1
    assert "1 episodes continue behind a missing step" in str(report)
    assert report.mean().max() < 1e-14


class Diverging(Turn):
    """Gives no number where the state has turned so far, and a large one before."""

    def forward(self, state, push):
        found = super().forward(state, push)
        return torch.where(state[:, :1] < 0, torch.nan, found)


def test_a_divergence_counts_from_its_step_on(data):
    # the state of angle arctan(0.5) turns by 0.4: its first component is below 0 after 3 steps, so step 4 is none
    first = 4
    report = RolloutEvaluation(data).measure(predictor(Diverging()), 12, episodes=[0], thresholds=[0.1])
    assert np.isfinite(report.mean()[: first - 1]).all()
    assert np.isinf(report.mean()[first - 1 :]).all()
    assert report.diverged.tolist() == [first]
    assert report.diverged_counts.tolist() == [0] * 3 + [1] * 9
    assert "the network diverged in 1 episodes, the first time at step 4" in str(report)
    (time,) = report.thresholds
    assert (time.median, time.median_seconds, time.censored) == (4, 1.0, 0)
    figures = report.to_dict()
    assert figures["metrics"]["relative_l2"]["next_state"]["mean"][first - 1 :] == [None] * 9
    assert figures["diverged"] == [0] * 3 + [1] * 9


def test_a_prediction_that_the_network_cannot_be_fed_is_a_divergence(tmp_path):
    """The state is float64, the network computes in float32: what it cannot hold is no input."""

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, state, push):
            return self.weight * state

    class Larger(Transform):
        def forward(self, fields):
            return {name: value.double() * 1e20 for name, value in fields.items()}

    network = Predictor(Single(), spec(), transforms=Transforms(before_apply=Larger()))
    report = RolloutEvaluation(turning(tmp_path / "d", [6, 6])).measure(network, 6)
    assert report.diverged.tolist() == [3, 3]  # 1e20, then 1e40, with which a network of float32 cannot be fed
    assert np.isfinite(report.mean()[:2]).all()
    assert np.isinf(report.mean()[2:]).all()
    short = RolloutEvaluation(turning(tmp_path / "e", [2])).measure(network, 2)
    assert short.diverged.tolist() == [0]  # nothing is fed any more


def test_times_until_a_threshold_are_those_of_the_powers(data):
    thresholds = [0.025, 0.055, 10.0]
    report = RolloutEvaluation(data).measure(predictor(Turn(1 + EPS)), 12, thresholds=thresholds)
    low, middle, high = report.thresholds
    # (1.01)**3 - 1 = 0.0303, (1.01)**2 - 1 = 0.0201; (1.01)**6 - 1 = 0.0615, (1.01)**5 - 1 = 0.0510
    assert low.steps.tolist() == [3, 3, 3]
    assert (low.median, low.median_seconds, low.censored) == (3, 0.75, 0)
    assert middle.steps.tolist() == [6, 5, 3]
    assert middle.exceeded.tolist() == [True, False, False]
    assert (middle.median, middle.median_seconds, middle.censored) == (6, 1.5, 2)
    assert (high.median, high.median_seconds, high.censored) == (None, None, 3)
    assert "not within their 3 to 12 steps in 3" in str(high)


def energy(predicted, true):
    return (predicted**2).sum(1) - (true**2).sum(1)


class Counting(Turn):
    """Is exact in its first step, and off by 0.1 times the steps that it remembers; episodes begin anew."""

    recurrent = True

    def forward(self, state, push, memory=None):
        count = torch.zeros(len(state), dtype=torch.float64) if memory is None else memory
        return super().forward(state, push) * (1 + 0.1 * count[:, None]), count + 1


def test_a_recurrent_network_remembers_the_steps_of_its_own_episode(data):
    for size in (1, 8):
        report = RolloutEvaluation(data).measure(predictor(Counting()), 5, batch_size=size)
        expected = np.cumprod(1 + 0.1 * np.arange(5)) - 1
        np.testing.assert_allclose(
            report.errors["relative_l2"]["next_state"][:2], np.tile(expected, (2, 1)), atol=1e-14
        )


def test_a_metric_of_ones_own(data):
    report = RolloutEvaluation(data).measure(predictor(Turn(1 + EPS)), 5, metrics=["rmse", energy], episodes=1)
    h, size = np.arange(1, 6), 1.0**2 + 0.5**2
    np.testing.assert_allclose(report.mean("energy"), size * ((1 + EPS) ** (2 * h) - 1), rtol=1e-10)
    np.testing.assert_allclose(report.mean("rmse"), np.sqrt(size / 2) * ((1 + EPS) ** h - 1), rtol=1e-10)
    assert report.units == {"rmse/next_state": "m", "energy/next_state": ""}
    with pytest.raises(ConfigError, match="the rollout has no metric 'mae'"):
        report.mean("mae")


def test_the_predictions_are_a_dataset(tmp_path):
    data = turning(tmp_path / "d", [6, 4], push=0.5, time_step=0.25, missing=[(0, 4)])
    network = predictor(Turn(1.1))
    report = RolloutEvaluation(data).measure(network, 4, record=tmp_path / "r", examples=2)
    record = SampleDataset(tmp_path / "r", "prediction")
    assert record.index("episode").tolist() == [0] * 4 + [1] * 4
    assert record.index("step").tolist() == [0, 1, 2, 3] * 2
    assert set(record.index("seed").tolist()) == {7, 8}
    assert record.time_step == 0.25
    arrays = record.episode(1)
    np.testing.assert_array_equal(arrays["next_state"], data.episode(1)["next_state"])
    state = data.episode(1)["state"][0]
    for push, predicted in zip(arrays["push"], arrays["prediction/next_state"], strict=True):
        state = 1.1 * (TURN @ state + push)
        np.testing.assert_allclose(predicted, state, rtol=1e-12)
    np.testing.assert_allclose(arrays["error/next_state"], report.errors["relative_l2"]["next_state"][1], rtol=1e-6)
    np.testing.assert_array_equal(report.examples[1].predicted["next_state"], arrays["prediction/next_state"])
    assert len(record.windows(1, 3)) == 4
    with pytest.raises(DatasetError, match="already holds prediction samples"):
        RolloutEvaluation(data).measure(network, 4, record=tmp_path / "r")


def test_a_record_of_a_state_that_is_stored_once_has_the_next_one(tmp_path):
    data = turning(tmp_path / "d", [6], push=0.5, once=True)
    RolloutEvaluation(data).measure(predictor(Diverging()), 5, record=tmp_path / "r")
    record = SampleDataset(tmp_path / "r", "prediction")
    np.testing.assert_array_equal(record.arrays["next_state"], data.arrays["state"][1:6])
    assert dict(record.feedback) == STORED
    bad = ~np.isfinite(record.arrays["prediction/next_state"]).all(1)
    assert bad.any()
    np.testing.assert_array_equal(np.isinf(record.arrays["error/next_state"]), bad)


def test_errors_of_a_record_are_those_of_the_report_where_fields_are_padded(tmp_path):
    """The network is off by 50 % in the first value, and gives what it likes where there is none."""
    fields = SampleSpec(
        [
            Field("state", (2,), WIDE, "input", mask="there"),
            Field("there", (2,), "int8", "input"),
            Field("next_state", (2,), WIDE, "target", mask="there", feeds="state"),
        ]
    )

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor([1.5, 7.0], dtype=torch.float64))

        def forward(self, state, there):
            return state * self.factor + 0.25 * (1 - there)

    state = np.tile([2.0, 0.0], (4, 1))
    with SampleWriter(tmp_path / "d", fields, source={"env": "tests:Padded"}) as writer:
        values = {"state": state, "there": np.tile(np.array([1, 0], "i1"), (4, 1)), "next_state": state}
        writer.append(values, episode=np.zeros(4, int), step=np.arange(4), seed=np.zeros(4, "u8"))
    network = Predictor(Padded(), fields)
    report = RolloutEvaluation(SampleDataset(tmp_path / "d")).measure(network, 4, record=tmp_path / "r")
    expected = 1.5 ** np.arange(1, 5) - 1
    np.testing.assert_allclose(report.mean(), expected)
    record = SampleDataset(tmp_path / "r", "prediction")
    np.testing.assert_allclose(record.arrays["error/next_state"], expected, rtol=1e-6)


class Following(nn.Module):
    """Two steps from two states: the last of them again."""

    def forward(self, state):
        return state[:, -1:].repeat(1, 2, 1)


@pytest.mark.slow  # the code of the simulation is searched for
def test_a_record_of_a_network_of_windows_is_opened_again(tmp_path):
    """It begins behind the first given state: that step is not one that was rejected."""
    fields = SampleSpec([Field("state", (2, 2), "float32", "input"), Field("next_state", (2, 2), "float32", "target")])
    network = Predictor(Following(), fields)
    evaluation = RolloutEvaluation("physgym/Spring-v0", seed=3)
    evaluation.measure(network, 4, episodes=2, record=tmp_path / "r", num_workers=0)
    record = SampleDataset(tmp_path / "r", "prediction")
    assert record.index("step").tolist() == [1, 2, 3, 4] * 2
    stored = record.episode(1)
    env, action = reopen(record, episode=1, step=3)
    with contextlib.closing(env):
        np.testing.assert_array_equal(env.step(action)[4]["sample"]["next_state"], stored["next_state"][2])


def test_nothing_stays_of_a_record_that_breaks_off(data, tmp_path):
    def broken(predicted, true):
        raise RuntimeError("no figure")

    with pytest.raises(RuntimeError, match="no figure"):
        RolloutEvaluation(data).measure(predictor(Turn()), 3, record=tmp_path / "r", metrics=[broken])
    with pytest.raises(DatasetError):
        SampleDataset(tmp_path / "r", "prediction")


def test_what_cannot_be_rolled_out_says_why(data, tmp_path):
    network, evaluation = predictor(Turn()), RolloutEvaluation(data)
    undeclared = SampleSpec([Field(f.name, f.shape, f.dtype, f.role) for f in spec().values()])
    bare = turning(tmp_path / "bare", [5])
    bare = bare._like(spec=undeclared)
    with pytest.raises(ConfigError, match="no feedback is declared"):
        RolloutEvaluation(bare).measure(predictor(Turn(), undeclared), 3)
    given = RolloutEvaluation(bare, feedback="next_state -> state").measure(predictor(Turn(), undeclared), 3)
    assert given.mean().max() < 1e-14
    with pytest.raises(ConfigError, match="feedback names"):
        RolloutEvaluation(bare, feedback="next -> state").measure(network, 3)
    with pytest.raises(ConfigError, match="no episode has 13 steps to predict: the longest one has 12"):
        evaluation.measure(network, 13)
    with pytest.raises(ConfigError, match="there is no metric 'energy'"):
        evaluation.measure(network, 3, metrics=["energy"])
    with pytest.raises(ConfigError, match="a single step has no r2"):
        evaluation.measure(network, 3, metrics=["r2"])
    with pytest.raises(ConfigError, match=r"there are no episodes \[3\]; there are 0 to 2"):
        evaluation.measure(network, 3, episodes=[1, 3])
    for wrong in ({"horizon": 0}, {"batch_size": 0}, {"thresholds": [-1.0]}, {"quantiles": [1.5]}, {"metrics": []}):
        with pytest.raises(ConfigError):
            evaluation.measure(network, **{"horizon": 3, **wrong})


def test_another_simulation_is_refused(data, tmp_path):
    other = turning(tmp_path / "d", [5], env="tests:Other")
    network = predictor(Turn())
    network.learned = Learned(samples=other)
    with pytest.raises(ConfigError, match="are those of tests:Turning, and the network has learned from tests:Other"):
        RolloutEvaluation(data).measure(network, 3)
    wider = SampleSpec([Field("state", (3,), WIDE, "input"), Field("next_state", (3,), WIDE, "target")])
    with pytest.raises(ConfigError, match="made for 'state' of shape"):
        RolloutEvaluation(data).measure(Predictor(nn.Identity(), wider), 3)
    strange = SampleSpec([Field("x", (2,), WIDE, "input"), Field("next_state", (2,), WIDE, "target")])
    with pytest.raises(ConfigError, match="feeds none of the inputs of the network"):
        RolloutEvaluation(data).measure(Predictor(nn.Identity(), strange), 3)


def test_episodes_that_were_learned_from_are_warned_of(data):
    network = predictor(Turn())
    network.learned = Learned(samples=data)
    with pytest.warns(UserWarning, match="trained on"):
        RolloutEvaluation(data).measure(network, 3)


def test_values_of_the_solver_that_do_not_fit_are_an_error(tmp_path):
    """What is wrong at the first step is no divergence."""

    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, state, push):
            return self.weight * state

    data = turning(tmp_path / "d", [3], push=1e60)
    data = data.subset(np.array([1, 2]))  # from a state of 1e60, which float32 does not hold
    with pytest.raises(SampleError, match="cannot hold"):
        RolloutEvaluation(data).measure(predictor(Single()), 2)


@pytest.mark.parametrize(("name", "step"), [("state", 0), ("push", 2), ("next_state", 2)])
def test_what_is_not_finite_in_the_samples_is_no_divergence(tmp_path, name, step):
    data = turning(tmp_path / "d", [4, 4])
    rows = {field: np.array(values) for field, values in data[:].items()}
    rows[name][4 + step, 1] = np.nan
    places = {of: data.index(of) for of in ("episode", "step", "seed")}
    with SampleWriter(tmp_path / "bad", spec(), nonfinite="allow") as writer:
        writer.append(rows, **places)
    bad = RolloutEvaluation(SampleDataset(tmp_path / "bad"))
    assert bad.measure(predictor(Turn()), 4, episodes=[0]).mean().max() < 1e-14
    with pytest.raises(SampleError, match=f"'{name}' of the solver is not finite in episode 1, step {step}"):
        bad.measure(predictor(Turn()), 4)


class Bounded(Turn):
    """Gives finite states whatever it is fed with."""

    def forward(self, state, push):
        return super().forward(state, push).nan_to_num(0.0, 0.0, 0.0)


class BoundedOnPurpose(Bounded):
    """Says so."""

    takes_nonfinite = True


def test_an_infinite_input_is_refused_also_where_predictions_are_finite(tmp_path):
    data = turning(tmp_path / "d", [4])
    rows = {field: np.array(values) for field, values in data[:].items()}
    rows["push"][2, 1] = np.inf
    places = {of: data.index(of) for of in ("episode", "step", "seed")}
    with SampleWriter(tmp_path / "bad", spec(), nonfinite="allow") as writer:
        writer.append(rows, **places)
    bad = RolloutEvaluation(SampleDataset(tmp_path / "bad"))
    assert bad.measure(predictor(Bounded()), 2).mean().max() < 1e-14  # before that step
    with pytest.raises(SampleError, match="'push' of the solver is not finite in episode 0, step 2"):
        bad.measure(predictor(Bounded()), 3)
    assert np.isfinite(bad.measure(predictor(BoundedOnPurpose()), 3).mean()).all()


def test_a_network_of_changes_goes_on_in_physical_units(tmp_path):
    """It predicts (1 + eps) times the change of each step: the error is what the true changes sum up to, times eps."""
    data = turning(tmp_path / "d", [7], push=0.5)
    changes = data.arrays["next_state"] - data.arrays["state"]
    scale = np.sqrt((changes**2).mean(0))

    class Next(nn.Module):
        """The normalized changes of one row after the other."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1 + EPS, dtype=torch.float64))
            self.row = 0

        def forward(self, state, push):
            row, self.row = self.row % len(changes), self.row + 1
            return self.weight * torch.tensor(changes[row] / scale).expand(len(state), 2)

    made = Changes.of(spec(), ["state", "push"], ["next_state"])
    made.fit({"next_state": Statistics.of(np.array([scale, -scale]))})
    network = Predictor(Next(), spec(), inputs=["state", "push"], outputs=["next_state"], changes=made)
    network.network.row = 0
    report = RolloutEvaluation(data).measure(network, 7)
    expected = EPS * np.linalg.norm(np.cumsum(changes, 0), axis=1) / np.linalg.norm(data.arrays["next_state"], axis=1)
    np.testing.assert_allclose(report.mean(), expected, rtol=1e-4)  # scales are float32


def test_an_output_that_feeds_nothing_is_compared_as_well(tmp_path):
    fields = SampleSpec([*spec().values(), Field("size", (), WIDE, "target", "m")])
    with SampleWriter(tmp_path / "d", fields, mode="test", source={}) as writer:
        state = np.array([[1.0, 0.0], *(np.linalg.matrix_power(TURN, n)[:, 0] for n in range(1, 5))])
        rows = {"state": state[:-1], "push": np.zeros((4, 2)), "next_state": state[1:], "size": np.full(4, 2.0)}
        names = {"episode": np.zeros(4, int), "step": np.arange(4), "seed": np.zeros(4, np.uint64)}
        writer.append(rows, **names)

    class Both(Turn):
        def forward(self, state, push):
            found = super().forward(state, push)
            return found, torch.linalg.norm(found, dim=1)

    network = Predictor(Both(), fields, inputs=["state", "push"], outputs=["next_state", "size"])
    report = RolloutEvaluation(SampleDataset(tmp_path / "d", "test")).measure(network, 4, metrics=["mae"])
    np.testing.assert_allclose(report.mean("mae", "size"), 1.0)
    assert report.mean("mae", "next_state").max() < 1e-14
    assert report.units == {"mae/next_state": "m", "mae/size": "m"}


@pytest.mark.parametrize("time_step", [None, 0.5])
def test_steps_that_differ_have_their_times_from_a_field(tmp_path, time_step):
    fields = SampleSpec([*spec().values(), Field("time", (), WIDE, "additional", "s")])
    state = np.array([np.linalg.matrix_power(TURN, n)[:, 0] for n in range(5)])
    with SampleWriter(tmp_path / "d", fields, source={}, attributes=time_attribute(time_step)) as writer:
        for episode, factor in enumerate((1.0, 2.0)):
            rows = {"state": state[:-1], "push": np.zeros((4, 2)), "next_state": state[1:]}
            rows["time"] = factor * np.array([0.1, 0.3, 0.6, 1.0])
            names = {"episode": np.full(4, episode), "seed": np.zeros(4, np.uint64)}
            writer.append(rows, step=np.arange(4), **names)
    evaluation, network = RolloutEvaluation(SampleDataset(tmp_path / "d")), predictor(Turn(1 + EPS))
    if time_step is not None:  # two times that disagree, of which nobody knows which one is meant
        with pytest.raises(DatasetError, match="Where steps differ, declare no time_step"):
            evaluation.measure(network, 4, episodes=[1], thresholds=[0.015])
        return
    one = evaluation.measure(network, 4, episodes=[1], thresholds=[0.015])
    np.testing.assert_allclose(one.seconds, [0.2, 0.6, 1.2, 2.0])
    assert one.thresholds[0].median_seconds == pytest.approx(0.6)
    both = evaluation.measure(network, 4, thresholds=[0.015])
    assert both.seconds is None  # the axis is the step
    assert both.thresholds[0].seconds.tolist() == pytest.approx([0.3, 0.6])
    assert (both.thresholds[0].median, both.thresholds[0].median_seconds) == (2, None)
