import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import physgym
from physgym import cli
from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.experiment.config import check_config
from physgym.experiment.runs import train
from physgym.nn import Predictor
from physgym.sample import Field, SampleSpec
from tests.support.rollouts import Turn, turning
from tests.support.rollouts import predictor as turning_network

SPEC = SampleSpec(
    [
        Field("load", (2,), "float32", "input", "m"),
        Field("shift", (2,), "float32", "target", "m"),
        Field("heat", (), "float32", "target"),
    ]
)
EPISODES, STEPS = 4, 3


class Twice(nn.Module):
    """Shift is twice the load, heat one: what is predicted is known."""

    def forward(self, load):
        return 2 * load, torch.ones(len(load))


def stored(path, mode="training", nonfinite="error", **changes):
    """Samples of which shift is twice the load, but for an error, and heat is 1."""
    count = EPISODES * STEPS
    load = np.stack([np.arange(count), np.ones(count)], 1).astype("f4")
    values = {"load": load, "shift": 2 * load, "heat": np.ones(count, "f4")}
    for name, (rows, value) in changes.items():
        values[name][rows] += value
    episode = np.repeat(np.arange(EPISODES), STEPS)
    with SampleWriter(path, SPEC, mode=mode, nonfinite=nonfinite) as writer:
        writer.append(values, episode=episode, step=np.tile(np.arange(STEPS), EPISODES), seed=episode.astype("u8"))
    return SampleDataset(path, mode)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    # sample 4 is off by 3 m in x, sample 7 by 4 m in y
    changes = {"shift": ([4, 7], np.array([[3.0, 0], [0, -4]]))}
    return stored(tmp_path_factory.mktemp("evaluated") / "data", **changes)


@pytest.fixture(scope="module")
def predictor(dataset):
    return Predictor(Twice(), dataset.spec)


@pytest.mark.parametrize("batch_size", [5, 12, 1])
def test_figures_are_those_of_the_formulas(dataset, predictor, batch_size):
    report = physgym.evaluate(predictor, dataset, batch_size=batch_size, progress=False)
    assert (report.samples, report.episodes) == (12, 4)
    assert report["mse/shift"] == pytest.approx((9 + 16) / 24)
    assert report["mae/shift"] == pytest.approx((3 + 4) / 24)
    assert report["max_error/shift"] == 4
    relative = [3 / math.hypot(11, 2), 4 / math.hypot(14, -2)]
    assert report["relative_l2/shift"] == pytest.approx(sum(relative) / 12, rel=1e-6)
    assert report["mae/heat"] == 0
    by_name = {f"{one.metric}/{one.field}": one for one in report.metrics}
    assert by_name["mae/shift"].components == pytest.approx((3 / 12, 4 / 12))
    assert (by_name["mse/shift"].unit, by_name["mae/shift"].unit, by_name["mae/heat"].unit) == ("m^2", "m", "")
    assert report.worst_by == "relative_l2"
    worst = [(one.sample, one.episode, one.step) for one in report.worst if one.field == "shift"]
    assert len(worst) == 5
    assert worst[:2] == [(7, 2, 1), (4, 1, 1)] if relative[1] > relative[0] else [(4, 1, 1), (7, 2, 1)]
    assert math.isnan(report["r2/heat"])
    text = str(report)
    assert "r2 of heat: not defined: the targets are the same in all samples" in text
    assert "worst of shift by relative_l2: episode" in text
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["fields"]["heat"]["r2"]["value"] is None


def test_the_worst_samples_are_those_of_the_metric(dataset, predictor):
    report = physgym.evaluate(predictor, dataset, metrics=["r2", "mae"], worst=1, progress=False)
    assert report.worst_by == "mae"  # a single sample has no r2
    assert [(one.field, one.sample, one.value) for one in report.worst] == [("shift", 7, 2.0), ("heat", 0, 0.0)]
    assert not physgym.evaluate(predictor, dataset, worst=0, progress=False).worst

    def highest(prediction, target):
        return prediction.max(tuple(range(1, prediction.ndim))) if prediction.ndim > 1 else prediction

    own = physgym.evaluate(predictor, dataset, metrics=[highest, "mae"], worst=2, worst_by="highest", progress=False)
    assert [one.sample for one in own.worst if one.field == "shift"] == [11, 10]
    assert own["highest/shift"] == pytest.approx(np.maximum(2 * np.arange(12), 2).mean())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metrics": ["mape"]}, "there is no metric 'mape'"),
        ({"metrics": ["no_module:no"]}, "metrics: importing 'no_module' failed"),
        ({"metrics": []}, "name at least one metric"),
        ({"metrics": ["mae"], "worst_by": "rmse"}, "worst_by: 'rmse' is not measured"),
        ({"worst_by": "r2"}, "worst_by: r2 is a figure of all samples together"),
        ({"batch_size": 0}, "batch_size"),
        ({"part": "test"}, "has no test part"),
        ({"part": "holdout"}, "not 'holdout'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"nonfinite": "ignore"}, "nonfinite must be one of"),
    ],
)
def test_arguments_that_cannot_be_are_named(dataset, predictor, options, text):
    with pytest.raises(ConfigError, match=text):
        physgym.evaluate(predictor, dataset, progress=False, **options)


def test_opened_predictions_are_those_of_the_part(tmp_path, dataset, predictor):
    record = stored(tmp_path / "record", "prediction")
    assert physgym.evaluate(predictor, record, part="prediction", progress=False).samples == EPISODES * STEPS
    with pytest.raises(ConfigError, match="open them with mode='prediction'"):
        physgym.evaluate(predictor, dataset, part="prediction", progress=False)


def test_samples_that_do_not_fit_are_refused(tmp_path, dataset, predictor):
    surgery.drop(dataset.paths[0], ["heat"], tmp_path / "less")
    with pytest.raises(ConfigError, match=r"the samples have no \['heat'\]"):
        physgym.evaluate(predictor, tmp_path / "less", progress=False)
    with pytest.raises(ConfigError, match=r"single steps, shape \(2,\), and the samples are windows with \(2, 2\)"):
        physgym.evaluate(predictor, dataset.windows(2, 2, feedback="shift -> load"), progress=False)
    with pytest.raises(DatasetError, match="there are no samples to evaluate"):
        physgym.evaluate(predictor, dataset.subset(np.zeros(0, int)), progress=False)
    with pytest.raises(ConfigError, match="name a dataset"):
        physgym.evaluate(predictor, progress=False)


def test_what_is_not_finite_is_an_error_or_counted(tmp_path, predictor):
    changes = {"shift": ([5], np.array([[np.nan, 0]])), "load": ([8], np.array([[np.inf, 0]]))}
    bad = stored(tmp_path / "bad", nonfinite="allow", **changes)
    with pytest.raises(SampleError, match=r"the target of 'shift' is not finite in sample 5 \(episode 1, step 2\)"):
        physgym.evaluate(predictor, bad, progress=False)
    with pytest.raises(SampleError, match=r"the input 'load' is not finite in sample 2 \(episode 2, step 2\)"):
        physgym.evaluate(predictor, bad.subset(np.arange(6, 12)), progress=False)
    report = physgym.evaluate(predictor, bad, nonfinite="leave_out", progress=False, batch_size=4)
    assert report.left_out == {"shift": 2, "heat": 1}
    assert report["mae/shift"] == 0
    assert "shift: 2 samples are left out" in str(report)
    assert not {5, 8} & {one.sample for one in report.worst if one.field == "shift"}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A training on eight tenths of twenty episodes."""
    folder = tmp_path_factory.mktemp("session")
    options = {"episodes": 20, "max_steps": 5, "num_workers": 0, "progress": False}
    physgym.generate("physgym/Spring-v0", folder / "data", **options)
    split = {"training": 0.8, "validation": 0.1, "test": 0.1}
    data = {
        "session": str(folder / "session"),
        "environment": {"id": "physgym/Spring-v0"},
        "dataset": {"path": str(folder / "data"), "samples": None, "split": split},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 2},
    }
    return train(check_config(data, "test")).session


def test_a_session_is_evaluated_on_the_test_part_that_it_recorded(session, capsys, monkeypatch, tmp_path):
    wanted = SampleDataset(session.parent / "data").part("test", {"training": 0.8, "validation": 0.1, "test": 0.1})
    report = physgym.evaluate(session, progress=False)
    assert (report.samples, report.episodes) == (10, 2)
    assert report.remarks == ()  # none of them was trained on
    assert report.mixed_units == {"next_state": ("m", "m/s")}
    assert "next_state has components with units of their own (m, m/s): figures of the whole field add" in str(report)
    opened = SampleDataset(session.parent / "data")  # which says nothing of a split itself
    assert physgym.evaluate(session, opened, part="test", progress=False).values == report.values
    assert physgym.evaluate(session, opened, part="training", progress=False).samples == 80
    predicted = physgym.evaluate(physgym.training.load_checkpoint(session), wanted, progress=False)
    assert predicted.values == report.values
    rows = wanted.gather(np.arange(10))
    found = physgym.training.load_checkpoint(session).predict(rows, batched=True)["next_state"]
    assert report["mae/next_state"] == pytest.approx(np.abs(found.astype("f8") - rows["next_state"]).mean())
    seen = physgym.evaluate(session, session.parent / "data", part="training", progress=False)
    assert seen.samples == 80
    assert "samples that the network was trained on" in seen.remarks[0]
    # on the command line
    file = tmp_path / "figures.json"
    typed = ["evaluate", str(session), "--data", str(session.parent / "data"), "--mode", "test", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["physgym", *typed, "--metric", "mae", "--worst", "1", "--which", "best", "--cpu"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "next_state  mae" in said
    assert said.startswith(f"10 samples of 2 episodes: among those stored for training in {session.parent / 'data'}\n")
    written = json.loads(file.read_text())
    assert (written["samples"], len(written["worst"])) == (10, 1)
    assert len(written["fields"]["next_state"]["mae"]["components"]) == 2


def test_windows_and_single_steps_are_not_confused(tmp_path):
    data, network = turning(tmp_path / "d", [6, 6], push=0.5), turning_network(Turn(1.5))
    with pytest.raises(ConfigError, match=r"single steps, shape \(2,\), and the samples are windows with \(1, 2\)"):
        physgym.evaluate(network, data.windows(1, 3), progress=False)
    windows = data.windows(2, 1)

    class Last(Turn):
        def forward(self, state, push):
            return super().forward(state[:, -1], push[:, -1])[:, None]

    of_windows = turning_network(Last(1.5), windows.spec)
    with pytest.raises(ConfigError, match=r"fed windows, 'state' of shape \(2, 2\), and the samples are single steps"):
        physgym.evaluate(of_windows, data, progress=False)
    assert physgym.evaluate(of_windows, windows, progress=False)["relative_l2/next_state"] == pytest.approx(0.5)


def test_a_state_that_is_stored_once_is_compared_with_the_next_row(tmp_path):
    data = turning(tmp_path / "d", [4, 1, 3], push=0.5, once=True)
    report = physgym.evaluate(turning_network(Turn(1.5)), data, metrics=["relative_l2", "mae"], progress=False)
    assert report.samples == 5  # the last step of an episode has no row behind it
    assert report.episodes == 2
    assert report["relative_l2/next_state"] == pytest.approx(0.5)
    assert {(one.episode, one.step) for one in report.worst} == {(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)}
    following = np.concatenate([data.episode(number)["state"][1:] for number in (0, 2)])
    assert report["mae/next_state"] == pytest.approx(0.5 * np.abs(following).mean())
    assert report.metrics[0].unit == "1"
    assert report.metrics[1].unit == "m"
