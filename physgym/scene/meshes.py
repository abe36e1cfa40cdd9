"""Cells of meshes: which kinds there are, and the surface of volumes, which is all of them that is seen."""

from __future__ import annotations

import numpy as np

from physgym.spaces import Array

# of each kind its faces, by the numbers of its corners in VTK's order
CELLS: dict[str, list[list[int]]] = {
    "triangle": [[0, 1, 2]],
    "quad": [[0, 1, 2, 3]],
    "tetra": [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]],
    "hexahedron": [[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]],
}
CORNERS = {"triangle": 3, "quad": 4, "tetra": 4, "hexahedron": 8}
VOLUMES = ("tetra", "hexahedron")


def kind_of_cells(corners: int, dimensions: int) -> str:
    """Return the kind of cells with so many corners: 4 are a quad in two dimensions, a tetrahedron in three.

    Raises:
        ValueError: There is none.
    """
    known = {3: "triangle", 4: "quad" if dimensions == 2 else "tetra", 8: "hexahedron"}
    if corners not in known:
        raise ValueError(f"cells have 3, 4 or 8 corners ({', '.join(CELLS)}), not {corners}")
    return known[corners]


def check_cells(cells: Array, points: int) -> None:
    """Check numbers of points, such as those of cells.

    Raises:
        ValueError: One is out of range; the text names the cell.
    """
    wrong = (cells < 0) | (cells >= points)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"cell {row} has the point {cells[row, column]}, and there are points from 0 to {points - 1}; "
            f"{int(wrong.any(axis=1).sum())} cells are out of range"
        )


def surface(cells: Array, kind: str) -> tuple[Array, Array]:
    """Return the faces of cells that are seen: all, or of volumes those that belong to one cell alone.

    Args:
        cells: Numbers of points, shape (m, corners).
        kind: One of `CELLS`.

    Returns:
        Faces, shape (f, 3) or (f, 4), int32, in the order of the cells; and the cell of each, shape (f,).
    """
    corners = np.array(CELLS[kind])
    faces = np.asarray(cells, np.int32)[:, corners].reshape(-1, corners.shape[1])
    owners = np.repeat(np.arange(len(cells)), len(corners))
    if kind in VOLUMES and len(faces):
        _, place, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
        outside = count[place.reshape(-1)] == 1
        faces, owners = faces[outside], owners[outside]
    return np.ascontiguousarray(faces), owners
