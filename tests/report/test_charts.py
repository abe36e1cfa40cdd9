"""Plots of reports: strict JSON, rounded, thinned with a word, and what is not finite is counted."""

import json

import numpy as np
import pytest

from physgym.report import charts
from physgym.report.figures import drawn_rows, drawn_text, plain, seconds_text


def strict(chart):
    return json.dumps([chart.traces, chart.layout], allow_nan=False)


def test_numbers_are_rounded_and_what_is_not_finite_is_none():
    assert plain(np.array([1 / 3, np.nan, np.inf, 1e30])) == [0.33333, None, None, 1e30]
    assert plain([True, False]) == [1, 0]
    assert plain(np.array(["a"])) == ["a"]


def test_numbers_that_differ_by_little_are_told_apart():
    kelvin = 293.15 + np.array([0.0, 1e-4, 2e-4])
    assert plain(kelvin) == pytest.approx(kelvin, abs=1e-8)
    assert plain([293.1512]) != plain([293.1534])  # a true number, and the predicted one
    assert plain([-1e308, 1e308]) == [-1e308, 1e308]


def test_curves_say_what_they_leave_out():
    x = np.arange(5001)
    y = np.where(x == 0, np.nan, np.exp(-x / 500))
    chart = charts.curves("loss", {"loss": (x, y)}, across="step")
    assert len(chart.traces[0]["y"]) == charts.POINTS
    assert chart.traces[0]["x"][-1] == 5000
    assert chart.traces[0]["y"][0] is None
    assert chart.notes == ("2,000 of 5,001 points are drawn", "1 value is not finite and not drawn")
    assert chart.layout["yaxis"]["type"] == "log"
    strict(chart)


def test_a_scale_is_logarithmic_where_all_is_positive_and_differs_much():
    def scale(*y):
        return charts.curves("", {"": (range(len(y)), y)}, across="").layout["yaxis"].get("type", "linear")

    assert [scale(1, 100), scale(1, 2), scale(-1, 100), scale(0, 100)] == ["log", "linear", "linear", "linear"]


def test_a_constant_is_seen_as_what_it_is():
    chart = charts.curves("lr", {"lr": ([1, 2, 3], [1e-3] * 3)}, across="epoch")
    assert chart.layout["yaxis"]["range"] == [5e-4, 1.5e-3]
    assert chart.layout["xaxis"]["dtick"] == 1
    assert "range" not in charts.curves("", {"": ([1, 2], [0, 0])}, across="").layout["yaxis"]


@pytest.mark.parametrize(
    "values",
    [
        [3.0] * 5,
        [1.0, np.nextafter(1.0, 2)],
        [-1e308, 1e308],
        [0, 1, 1, 2],
        [True, False],
        np.random.default_rng(0).normal(size=1000),
    ],
    ids=["constant", "two neighbours", "huge", "integers", "flags", "normal"],
)
def test_a_histogram_has_all_values(values):
    chart = charts.histogram("x", {"x": np.asarray(values)})
    shares = np.array(chart.traces[0]["y"], float)
    assert shares.sum() == pytest.approx(1, abs=1e-3)
    strict(chart)


def test_a_histogram_counts_what_is_not_finite():
    chart = charts.histogram("x", {"x": np.array([1.0, 2.5, np.nan, np.inf])}, note="said")
    assert chart.notes == ("said", "2 values are not finite and not drawn")
    nothing = charts.histogram("x", {"x": np.array([np.nan])})
    assert nothing.empty
    assert nothing.notes


def test_a_histogram_has_a_bar_for_each_of_few_integers():
    chart = charts.histogram("x", {"x": np.array([1, 1, 1, 5])})
    assert chart.traces[0]["x"] == [1, 5]
    assert chart.traces[0]["y"] == [0.75, 0.25]


def test_a_rare_integer_among_many_has_its_bar():
    x = np.zeros(300_000)
    x[1], x[4] = 3, 7
    chart = charts.histogram("x", {"x": x})
    assert chart.traces[0]["x"] == [0, 3, 7]
    assert chart.traces[0]["y"] == pytest.approx([1, 1 / 300_000, 1 / 300_000], rel=1e-4)


def test_integers_that_are_too_large_for_a_bar_each_are_drawn():
    shares = charts.histogram("x", {"x": 2.0**53 + np.array([0, 2, 4])}).traces[0]["y"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_few_integers_of_several_kinds_are_bars_too():
    chart = charts.histogram("x", {"a": np.array([100, 100]), "b": np.array([100])})
    assert [trace["type"] for trace in chart.traces] == ["bar", "bar"]  # a line of one point is not seen


def test_several_kinds_of_values_share_their_bins():
    chart = charts.histogram("x", {"a": np.linspace(0, 1, 100), "b": np.linspace(5, 6, 10)})
    assert chart.traces[0]["x"] == chart.traces[1]["x"]
    assert all(sum(trace["y"]) == pytest.approx(1, abs=1e-3) for trace in chart.traces)


def test_clouds_are_drawn_from_the_same_points_every_time():
    x = np.arange(9000.0)
    x[7] = np.nan
    first, second = (charts.cloud("", {"g": (x, x)}, across="", up="", diagonal=True) for _ in range(2))
    assert first == second
    assert len(first.traces[0]["x"]) == charts.POINTS
    assert first.notes == ("2,000 of 8,999 points are drawn", "1 value is not finite and not drawn")
    strict(first)


def test_a_band_counts_what_is_not_finite_once():
    x = np.arange(4)
    y = np.array([1, 2, np.inf, np.inf])
    chart = charts.band("", x, y, y / 2, y * 2, names=("mean", "band"), across="step")
    assert chart.notes == ("2 values are not finite and not drawn",)
    strict(chart)


def test_texts_are_shown_as_they_are():
    chart = charts.counts("", {"<b>x</b>": 2}, what="<i>")
    assert chart.traces[0]["y"] == ["&lt;b&gt;x&lt;/b&gt;"]
    assert chart.layout["xaxis"]["title"]["text"] == "&lt;i&gt;"


def test_rows_are_drawn_with_a_seed():
    rows = drawn_rows(1000, 50)
    assert len(set(rows.tolist())) == 50
    assert (np.diff(rows) > 0).all()
    assert (rows == drawn_rows(1000, 50)).all()
    assert (drawn_rows(5, 50) == np.arange(5)).all()
    assert drawn_text(10_000, 1_000_000) == "drawn from 10,000 of 1,000,000 samples"


def test_times_in_words():
    assert [seconds_text(one) for one in (1.234, 200, 7300, 2e6)] == [
        "1.23 s",
        "3 min 20 s",
        "2 h 1 min",
        "23 days 3 h",
    ]
