"""Grids of datasets: which axes are those of the grid, and where its points are."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.formats.vtk.grid import find_grid
from physgym.sample import Field, SampleSpec


def spec(**shapes):
    """Fields by shape, or by shape and the axes of a grid that it declares."""
    fields = []
    for name, given in shapes.items():
        shape, dimensions = given if isinstance(given[0], tuple) else (given, None)
        fields.append(Field(name, shape, np.dtype("f4"), "input", dimensions=dimensions))
    return SampleSpec(fields)


def test_components_are_first_or_last_as_another_field_shows():
    grid, _ = find_grid(spec(a=((8, 8), 2), b=((8, 8, 3), 2), c=((2, 8, 8), 2)), {}, {})
    assert (grid.fields["b"].channel, grid.fields["c"].channel) == (2, 0)


def test_components_are_the_shorter_axis_and_unknown_where_there_is_none():
    grid, _ = find_grid(spec(a=((9, 9, 2), 2)), {}, {})
    assert (grid.shape, grid.fields["a"].channel) == ((9, 9), 2)
    grid, why = find_grid(spec(a=((3, 3, 3), 2)), {}, {})
    assert grid is None
    assert "--dim a=channel" in why["a"]


def test_the_grid_is_the_one_of_most_fields():
    grid, why = find_grid(spec(a=((4, 4), 2), b=((5, 5), 2), c=((5, 5), 2), d=(5, 5), e=(6, 6)), {}, {})
    assert set(grid.fields) == {"b", "c", "d"}
    assert why == {"a": "its grid has (4, 4) points, not (5, 5)"}


def test_what_declares_nothing_is_no_grid():
    assert find_grid(spec(a=(9, 9)), {}, {}) == (None, {})


@pytest.mark.parametrize(
    ("coordinates", "error"),
    [
        ([0.0, 1.0, 3.0], "not evenly spaced"),
        ([0.0, 1.0], r"has the shape \(2,\)"),
        ([1.0, 1.0, 1.0], "not evenly spaced"),
    ],
)
def test_coordinates_that_are_none_are_an_error(coordinates, error):
    with pytest.raises(ConfigError, match=error):
        find_grid(spec(a=(3, 2)), {"a": ["y", "x"]}, {"y": np.array(coordinates)})


def test_fields_have_one_order_of_axes():
    with pytest.raises(ConfigError, match="those of others"):
        find_grid(spec(a=(3, 3), b=(3, 3)), {"a": ["y", "x"], "b": ["x", "y"]}, {})
