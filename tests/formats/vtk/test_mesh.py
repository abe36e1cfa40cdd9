"""Meshes of datasets: which constants are nodes and cells, and what kinds of cells they are."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.formats.vtk.mesh import find_mesh
from physgym.sample import Field, SampleSpec
from tests.support.vtk_files import SQUARE

CUBE = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)


class Held:
    """What of a dataset is asked for."""

    def __init__(self, **constants):
        self.constants = {name.replace("__", "/"): np.asarray(value) for name, value in constants.items()}
        self.spec = SampleSpec(
            [Field("points", (3, 2), np.dtype("f4"), "input"), Field("n", (3,), np.dtype("i4"), "input")]
        )


def test_a_mesh_that_was_imported_is_found_with_cells_of_several_kinds():
    held = Held(mesh__points=CUBE, mesh__cells__quad_0=[[0, 1, 3, 2]], mesh__cells__tetra=[[0, 1, 2, 4]])
    mesh = find_mesh(held, None, None)
    assert (mesh.nodes, mesh.cells) == (8, 2)
    assert mesh.kinds.tolist() == [9, 10]
    assert mesh.offsets.tolist() == [0, 4, 8]
    assert mesh.constants == set(held.constants)


def test_points_of_an_import_move_where_they_are_a_field():
    mesh = find_mesh(Held(mesh__cells__triangle=[[0, 1, 2]]), None, None)
    assert (mesh.moving, mesh.points, mesh.kinds.tolist()) == ("points", None, [5])


@pytest.mark.parametrize(("corners", "kind"), [(1, 1), (2, 3), (3, 5), (5, 14), (6, 13), (8, 12)])
def test_the_number_of_corners_says_the_kind(corners, kind):
    mesh = find_mesh(Held(nodes=CUBE, cells=[list(range(corners))]), None, None)
    assert mesh.kinds.tolist() == [kind]


def test_four_corners_are_a_quad_in_two_dimensions_and_have_to_be_named_in_three():
    assert find_mesh(Held(nodes=SQUARE, cells=[[0, 1, 2, 3]]), None, None).kinds.tolist() == [9]
    held = Held(nodes=CUBE, cells=[[0, 1, 2, 4]])
    with pytest.raises(ConfigError, match="--cells cells=quad or --cells cells=tetra"):
        find_mesh(held, None, None)
    assert find_mesh(held, None, "cells=tetra").kinds.tolist() == [10]


@pytest.mark.parametrize(
    ("constants", "error"),
    [
        ({"nodes": CUBE, "cells": [[0, 1, 8]]}, "name nodes 0 to 8; 'nodes' has 8"),
        ({"nodes": CUBE, "cells": [[-1, 1, 2]]}, "name nodes -1 to 2"),
        ({"nodes": CUBE, "cells": [[0.0, 1.0, 2.0]]}, "none of cells"),
        ({"nodes": CUBE, "cells": [[0] * 7]}, "7 corners each; kinds have"),
        ({"nodes": CUBE[:, :1]}, "none of positions"),
        ({"nodes": np.array([[0.0, np.nan]])}, "not finite"),
    ],
)
def test_what_is_no_mesh_is_an_error(constants, error):
    with pytest.raises(ConfigError, match=error):
        find_mesh(Held(**constants), None, None)


def test_without_nodes_there_is_no_mesh():
    assert find_mesh(Held(cells=[[0, 1, 2]]), None, None) is None
    with pytest.raises(ConfigError, match="needs nodes"):
        find_mesh(Held(cells=[[0, 1, 2]]), None, "cells")


def test_a_dataset_is_what_is_asked():
    assert {"constants", "spec"} <= set(dir(SampleDataset)) | {"spec"}
