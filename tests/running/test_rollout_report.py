"""What a report of rollouts says, writes and draws."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from physgym.errors import ConfigError
from physgym.running.autoregression import PredictedTrajectory
from physgym.running.component_errors import ComponentErrors
from physgym.running.rollout_animation import can_animate, save_animation
from physgym.running.rollout_report import RolloutReport
from physgym.running.threshold_times import ThresholdTimes
from physgym.running.trajectories import Trajectory

NAN, INF = np.nan, np.inf
# four episodes of 3, 3, 2 and 1 steps, of which the second diverges at its second step
ERRORS = np.array([[0.1, 0.2, 0.3], [0.2, INF, INF], [0.3, 0.4, NAN], [0.4, NAN, NAN]])


def report(times=0.5, **changes) -> RolloutReport:
    seconds = np.where(np.isnan(ERRORS), NAN, times * np.arange(1, 4))
    given = {
        "errors": {"relative_l2": {"y": ERRORS}, "rmse": {"y": 2 * ERRORS}},
        "units": {"relative_l2/y": "", "rmse/y": "m"},
        "field_units": {"y": "m"},
        "episodes": np.array([0, 1, 2, 5]),
        "reached": np.array([3, 3, 2, 1]),
        "diverged": np.array([0, 2, 0, 0]),
        "times": seconds,
        "quantiles": (0.25, 0.5),
        "thresholds": [ThresholdTimes.of("relative_l2", "y", 0.35, ERRORS, seconds)],
        "source": {"env": "tests:Line"},
    }
    return RolloutReport(**{**given, **changes})


def test_each_horizon_is_of_the_episodes_that_reach_it():
    found = report()
    assert found.horizon == 3
    assert found.counts.tolist() == [4, 3, 2]
    assert found.diverged_counts.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.mean(), [0.25, INF, INF])
    # the smallest error that a quarter, or half, of the episodes does not exceed
    np.testing.assert_allclose(found.quantile(0.25), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(found.quantile(0.5, "rmse", "y"), [0.4, 0.8, 0.6])
    np.testing.assert_allclose(found.quantile(1.0), [0.4, INF, INF])
    assert found.seconds.tolist() == [0.5, 1.0, 1.5]
    with pytest.raises(ConfigError, match="has no field 'z'; it has y"):
        found.mean(name="z")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        found.quantile(2)


def test_times_that_differ_or_are_unknown_are_no_axis():
    assert report(times=NAN).seconds is None
    different = report().times
    different[0] *= 2
    assert report(times=different[0, 0]).seconds is not None
    found = report()
    found.times[0, 1] = 7.0
    assert found.seconds is None
    assert "time" not in str(found).splitlines()[5]


def test_the_table_says_what_is_not_average():
    text = str(report(short=2, cut=1))
    assert text.splitlines()[:5] == [
        "rollout of 3 steps in 4 episodes",
        "2 episodes end earlier, from step 1 on",
        "1 episodes continue behind a missing step, at which they end here",
        "2 episodes are too short for a predicted step, and left out",
        "the network diverged in 1 episodes, the first time at step 2; its error is infinite from there on",
    ]
    lines = [line.split() for line in text.splitlines()]
    assert ["step", "time", "(s)", "episodes", "diverged", "mean", "25", "%", "50", "%"] in lines
    assert ["2", "1", "3", "1", "inf", "0.2", "0.4"] in lines
    assert ["rmse", "of", "y", "(m)"] in lines
    assert "relative_l2 of y above 0.35: median after 2 steps (1 s); in 3 of 4 episodes" in text


def test_figures_are_strict_json(tmp_path):
    report(short=2).save_json(tmp_path / "r.json")

    def refuse(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert found["horizon"] == [1, 2, 3]
    assert found["seconds"] == [0.5, 1.0, 1.5]
    assert found["episodes"] == [4, 3, 2]
    assert found["diverged"] == [0, 1, 1]
    assert found["metrics"]["rmse"]["y"] == {
        "unit": "m",
        "mean": [0.5, None, None],
        "quantiles": {"0.25": [0.2, 0.4, 0.6], "0.5": [0.4, 0.8, 0.6]},
    }
    assert found["too_short"] == 2
    assert found["by_episode"] == {
        "episode": [0, 1, 2, 5],
        "horizon": [3, 3, 2, 1],
        "diverged_at": [None, 2, None, None],
    }
    assert found["thresholds"][0]["steps"] == [3, 2, 2, 1]
    with pytest.raises(ConfigError, match="cannot write"):
        report().save_json(tmp_path / "none" / "r.json")


def test_figures_are_a_table(tmp_path):
    report().save_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert list(rows[0]) == [
        *("horizon", "seconds", "episodes", "diverged"),
        *("relative_l2/y/mean", "relative_l2/y/q0.25", "relative_l2/y/q0.5"),
        *("rmse/y/mean", "rmse/y/q0.25", "rmse/y/q0.5"),
    ]
    assert rows[1]["relative_l2/y/mean"] == "inf"
    assert [row["horizon"] for row in rows] == ["1", "2", "3"]
    report(times=NAN).save_csv(tmp_path / "r.csv")
    assert "seconds" not in (tmp_path / "r.csv").read_text().splitlines()[0]


def test_components_have_figures_of_their_own(tmp_path):
    rmse = np.array([[1, 2], [3, INF], [5, INF]])
    each = ComponentErrors(("m", "rad"), rmse, np.array([[0.1, 0.2], [0.3, INF], [0.5, INF]]))
    found = report(components={"y": each})
    text = str(found)
    assert "relative_l2 of y: of all components together, which have the units m, rad" in text
    text = text.split("components of y: root mean squared error over the standard deviation of each\n")[1]
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["step", "time", "(s)", "episodes", "diverged", "[0]", "(m)", "[1]", "(rad)"]
    assert lines[2] == ["2", "1", "3", "1", "0.3", "inf"]
    wanted = {"units": ["m", "rad"], "rmse": [[1, 3, 5], [2, None, None]]}
    assert found.to_dict()["components"] == {"y": wanted | {"nrmse": [[0.1, 0.3, 0.5], [0.2, None, None]]}}
    found.save_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [(row["nrmse/y/0"], row["nrmse/y/1"]) for row in rows] == [("0.1", "0.2"), ("0.3", "inf"), ("0.5", "inf")]
    many = ComponentErrors(("",) * 9, np.ones((3, 9)), np.ones((3, 9)))
    assert "components" not in str(report(components={"y": many}))
    assert "together" not in str(report(components={"y": ComponentErrors(("m", "m"), each.rmse, each.nrmse)}))


@pytest.mark.parametrize("times", [0.5, pytest.param(NAN, marks=pytest.mark.slow)])
def test_a_plot_is_a_picture(tmp_path, times):
    report(times=times).plot(tmp_path / "e.png", "rmse")
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.size[0] > 800
    with pytest.raises(ConfigError, match=r"a plot is written as .png, .pdf, .svg, not as 'e.gif'"):
        report().plot(tmp_path / "e.gif")
    with pytest.raises(ConfigError, match="has no metric 'mae'"):
        report().plot(tmp_path / "e.png", "mae")


def rollout(shape, steps=3, diverged=0, seconds=None) -> PredictedTrajectory:
    generator = np.random.default_rng(0)
    true = generator.normal(size=(steps, *shape)).astype(np.float32)
    predicted = true + generator.normal(size=true.shape).astype(np.float32) / 4
    if diverged:
        predicted[diverged - 1 :] = np.nan
    trajectory = Trajectory(4, 11, 0, np.arange(steps), {})
    return PredictedTrajectory(trajectory, {"y": predicted}, {"y": true}, diverged, {"y": None}, seconds)


def frames(file) -> int:
    with Image.open(file) as found:
        return found.n_frames


SLOW = [pytest.param(shape, marks=pytest.mark.slow) for shape in [(), (2,), (12,), (6, 5), (6, 5, 1)]]


@pytest.mark.parametrize("shape", [*SLOW, (12, 2), (2, 6, 5)])
def test_an_animation_has_a_frame_for_each_step(tmp_path, shape):
    assert can_animate(shape)
    save_animation(tmp_path / "a.gif", rollout(shape, 2), "y", "m")
    assert frames(tmp_path / "a.gif") == 2


def test_an_animation_says_each_frame_that_it_draws(tmp_path, monkeypatch):
    drawn = []
    found = report(examples=[rollout((6,), 7, seconds=np.arange(1, 8) / 10)], field_units={"y": "m, m, m, m/s, m/s, m"})
    figures = []
    blank = np.zeros((600, 960, 3), np.uint8)
    monkeypatch.setattr(
        "physgym.running.rollout_animation.figure_frame", lambda figure: figures.append(figure) or blank
    )
    found.animate(tmp_path / "a.gif", frames=4, drawn=lambda: drawn.append(len(figures)))
    assert drawn == [1, 2, 3, 4]
    (figure,) = {*figures}  # one, whose lines move
    figure.draw_without_rendering()
    assert [axes.get_ylabel() for axes in figure.axes] == ["m", "m", "m", "m/s", "m/s", "m"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["solver", "network"]
    assert all(axes.get_legend() is None for axes in figure.axes)  # which would cover curves
    assert len(figure.axes[0].lines[1].get_xdata()) == 7
    assert figure.get_suptitle() == "episode 4: step 7, 0.7 s"


def test_an_animation_shows_some_steps_of_a_long_rollout_and_ends_with_it(tmp_path):
    kept = rollout((2,), 30, diverged=21, seconds=np.arange(1, 31) / 10)
    found = report(examples=[kept])
    found.animate(tmp_path / "a.gif", frames=2)
    assert frames(tmp_path / "a.gif") == 2
    with pytest.raises(ConfigError, match="there is no example 1; 1 rollouts were kept"):
        found.animate(tmp_path / "a.gif", example=1)
    with pytest.raises(ConfigError, match=r"written as .gif, not as 'a.png'"):
        found.animate(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"'y' has shape \(4, 4, 4\); animations are of"):
        save_animation(tmp_path / "b.gif", rollout((4, 4, 4)), "y", "m")
    with pytest.raises(ConfigError, match="diverges at its first step"):
        save_animation(tmp_path / "b.gif", rollout((2,), diverged=1), "y", "m")
    assert not (tmp_path / "b.gif").exists()
