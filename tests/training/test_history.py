"""The history of a training as a table and as a picture."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.experiment.search.worker import chosen
from physgym.report.session_sections import loss_headline
from physgym.training.history import History


@pytest.fixture
def history():
    first = {"epoch": 1, "loss": 4.0, "validation_loss": 5.0}
    second = {"epoch": 2, "loss": 2.0}
    third = {"epoch": 3, "loss": 1.0, "validation_loss": 3.0, "rollout": -7.0}
    return History([first, second, third])


def test_the_table_has_a_row_for_each_epoch(history):
    table = history.table()
    assert list(table) == ["epoch", "loss", "validation_loss", "rollout"]
    assert (table["epoch"], table["loss"]) == ([1, 2, 3], [4.0, 2.0, 1.0])
    np.testing.assert_array_equal(table["validation_loss"], [5, math.nan, 3])
    np.testing.assert_array_equal(table["rollout"], [math.nan, math.nan, -7])
    assert History().table() == {}


def test_names_are_what_one_iterates_over(history):
    assert list(history) == list(history.table())
    assert "rollout" in history
    assert "lr" not in history


def test_the_table_is_a_dataframe_where_pandas_is_there(history, monkeypatch):
    pandas = pytest.importorskip("pandas")
    pandas.testing.assert_frame_equal(history.to_dataframe(), pandas.DataFrame(history.table()))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        history.to_dataframe()


def test_a_plot_shows_the_losses_over_the_epochs_that_have_them(history):
    axes = history.plot().figure.axes[0]
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "loss": [[1, 4], [2, 2], [3, 1]],
        "validation_loss": [[1, 5], [3, 3]],
    }
    assert axes.get_yscale() == "log"
    chosen = history.plot("rollout").figure.axes[0]
    assert chosen.lines[0].get_xydata().tolist() == [[3, -7]]
    assert chosen.get_yscale() == "linear"


def test_what_cannot_be_plotted_says_so(history):
    with pytest.raises(ConfigError, match=r"no \['lost'\]; it has \['epoch', 'loss'"):
        history.plot("lost")
    with pytest.raises(ConfigError, match="no epoch is completed"):
        History().plot()


def test_a_notebook_shows_a_table_and_the_curves(history):
    history.stopped = "<b>enough</b>"
    history.epochs[1]["<i>"] = math.inf
    text = history._repr_html_()
    assert text.startswith("<b>History</b> 3 epochs, stopped: &lt;b&gt;enough&lt;/b&gt;\n")
    assert "<th>epoch</th><th>loss</th><th>validation_loss</th><th>&lt;i&gt;</th>" in text
    assert "<tr><td>2</td><td>2</td><td></td><td>inf</td><td></td></tr>" in text
    assert text.count('<img src="data:image/png;base64,') == 1
    assert "<i>" not in text


def test_a_notebook_shows_the_last_epochs_of_many():
    many = History([{"epoch": number, "loss": 1 / number} for number in range(1, 31)], interrupted=True, skipped=2)
    text = many._repr_html_()
    assert "30 epochs, interrupted, 2 batches skipped, the last 10:" in text
    assert text.count("<tr>") == 11
    assert "<td>21</td>" in text
    assert "<td>20</td>" not in text


def test_a_notebook_shows_what_has_no_curve(monkeypatch):
    assert History()._repr_html_() == "<b>History</b> 0 epochs"
    assert "<img" not in History([{"epoch": 1, "return": 3.0}])._repr_html_()
    assert "<td>nan</td>" in History([{"epoch": 1, "loss": math.nan}])._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    without = History([{"epoch": 1, "loss": 2.0}])._repr_html_()
    assert "<td>2</td>" in without
    assert "<img" not in without


def test_a_name_that_no_epoch_has_is_an_error_that_names_those_there_are():
    history = History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "validation_loss": 0.3}])
    assert history["loss"] == [0.5, 0.25]
    assert history["validation_loss"] == [0.3]
    for kind in (KeyError, ConfigError):
        with pytest.raises(kind) as refused:
            history["validation_los"]
        assert str(refused.value) == "the history has no 'validation_los'; it has epoch, loss, validation_loss"
    assert "validation_loss" in history
    assert "validation_los" not in history
    assert History()["loss"] == []  # nothing is known yet


def test_what_reads_a_history_does_without_a_value_that_is_not_there():
    history = History([{"epoch": 1, "loss": 0.5, "seconds": 1.0, "samples": 4}])
    assert loss_headline(history) == {"epochs": "1", "loss, last": "0.5"}
    assert chosen(history, "validation_loss", "best", "minimize") is None
