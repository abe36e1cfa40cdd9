"""Pictures for notebooks: what is drawn where, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.pictures import ArrayPanel, draw_arrays, draw_curves


def test_few_columns_are_curves_and_many_are_an_image():
    rows = np.arange(5) * 2.0
    few = ArrayPanel("few", np.arange(10.0).reshape(5, 2), "m", rows, "step")
    many = ArrayPanel("many", np.arange(60.0).reshape(5, 12), "K", rows, "step")
    figure = draw_arrays([few, many], title="both").figure
    curves, image = figure.axes[0], figure.axes[1]
    assert [line.get_ydata().tolist() for line in curves.lines] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert (curves.get_xlabel(), curves.get_ylabel(), curves.get_title()) == ("step", "m", "few")
    assert curves.lines[0].get_xdata().tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(image.images[0].get_array(), np.arange(60.0).reshape(5, 12))
    assert tuple(image.images[0].get_extent()) == (-0.5, 11.5, -1, 9)  # half a row around the first and the last one


def test_a_notebook_gets_a_png_and_a_file_has_the_format_of_its_suffix(tmp_path):
    picture = draw_arrays([ArrayPanel("one", np.arange(3.0))])
    assert picture._repr_png_()[:4] == b"\x89PNG"
    picture.save(tmp_path / "one.pdf")
    assert (tmp_path / "one.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(ConfigError, match=r"one\.nothing"):
        picture.save(tmp_path / "one.nothing")


def test_curves_have_abscissae_of_their_own():
    curves = {"a": (np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0])), "b": (np.array([2]), np.array([4.0]))}
    axes = draw_curves(curves, label="epoch", logarithmic=True).figure.axes[0]
    assert (axes.get_yscale(), axes.get_xlabel()) == ("log", "epoch")
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3], [2]]
    assert all(tick == round(tick) for tick in axes.get_xticks())  # there is no epoch 1.5
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_curves({}, label="epoch", logarithmic=False)


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw_arrays([ArrayPanel("one", np.arange(3.0))])
