"""`Mesh`: nodes and cells of a dataset, which are constants or a field, as an unstructured grid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError
from physgym.spaces import Array

NODES, CELLS = "nodes", "cells"
IMPORTED_NODES, IMPORTED_CELLS, IMPORTED_MOVING = "mesh/points", "mesh/cells", "points"  # of `formats.mesh_series`
# kinds of cells by meshio's names: VTK's number, and corners
KINDS = {
    "vertex": (1, 1),
    "line": (3, 2),
    "triangle": (5, 3),
    "quad": (9, 4),
    "tetra": (10, 4),
    "hexahedron": (12, 8),
    "wedge": (13, 6),
    "pyramid": (14, 5),
    "line3": (21, 3),
    "triangle6": (22, 6),
    "quad8": (23, 8),
    "tetra10": (24, 10),
    "hexahedron20": (25, 20),
}
# what so many corners are where nothing says it
COMMON = {1: "vertex", 2: "line", 3: "triangle", 5: "pyramid", 6: "wedge", 8: "hexahedron"}


@dataclass(frozen=True)
class Mesh:
    """Nodes and cells.

    Attributes:
        nodes: Number of nodes.
        points: Positions, shape (nodes, 3); None where they are a field.
        moving: Name of that field, empty where they stay.
        connectivity: Numbers of nodes, cell after cell, shape (n,), int64.
        offsets: Where each cell begins in `connectivity`, and its end, shape (cells + 1,), int64.
        kinds: VTK's number of each cell's kind, shape (cells,), uint8.
        constants: Names of the constants that it is made of.
    """

    nodes: int
    points: Array | None
    moving: str
    connectivity: Array
    offsets: Array
    kinds: Array
    constants: frozenset[str]

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return len(self.kinds)


def find_mesh(dataset: SampleDataset, nodes: str | None, cells: str | None) -> Mesh | None:
    """Return the mesh of a dataset, None where there is none; without cells it is a point cloud.

    Args:
        dataset: The samples.
        nodes: Name of the constant with the positions, or of a field where nodes move; by default the constant
            ``nodes``, or what an import of meshes gives.
        cells: Name of the constant with the cells, or of the group of several of them by kind, perhaps with
            ``=KIND``; by default ``cells``, or what an import of meshes gives.

    Raises:
        ConfigError: There is no array of this name, or it is none of nodes or cells.
    """
    constants = dataset.constants
    name = nodes or next((known for known in (NODES, IMPORTED_NODES) if known in constants), None)
    if name is None and IMPORTED_MOVING in dataset.spec and _of_group(constants, IMPORTED_CELLS):
        name = IMPORTED_MOVING
    if name is None:
        if cells is not None:
            raise ConfigError(
                f"--cells {cells} needs nodes, and the dataset has no constant {NODES!r}: name it with --nodes"
            )
        return None
    moving, points = "", None
    if name in constants:
        points = _points(name, constants[name])
        count = len(points)
    elif name in dataset.spec:
        moving, shape, dtype = name, dataset.spec[name].shape, dataset.spec[name].dtype
        if len(shape) != 2 or shape[1] not in (2, 3) or dtype.kind != "f" or not shape[0]:
            raise ConfigError(
                f"the field {name!r} of shape {shape} and dtype {dtype} is none of positions, floats (nodes, 2) or "
                "(nodes, 3)"
            )
        count = shape[0]
    else:
        raise ConfigError(f"there is no constant and no field {name!r}; constants: {sorted(constants)}")
    flat = (constants[name] if not moving else dataset.spec[name]).shape[1] == 2
    blocks = _blocks(constants, cells, imported=name in (IMPORTED_NODES, IMPORTED_MOVING))
    if not blocks:
        each = np.arange(count + 1, dtype=np.int64)  # a vertex per node, or nothing would be seen
        kinds = np.full(count, KINDS["vertex"][0], np.uint8)
        return Mesh(count, points, moving, each[:-1], each, kinds, frozenset({name}))
    found = [(_kind(block, kind, constants[block], flat=flat), constants[block]) for block, kind in blocks.items()]
    for block, (_, corners) in zip(blocks, found, strict=True):
        if corners.size and not 0 <= corners.min() <= corners.max() < count:
            raise ConfigError(
                f"the cells {block!r} name nodes {corners.min()} to {corners.max()}; {name!r} has {count}, which are "
                "numbered from 0"
            )
    sizes = np.concatenate([np.full(len(corners), corners.shape[1], np.int64) for _, corners in found])
    return Mesh(
        count,
        points,
        moving,
        np.concatenate([corners.astype(np.int64).ravel() for _, corners in found]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([np.full(len(corners), KINDS[kind][0], np.uint8) for kind, corners in found]),
        frozenset({name, *blocks}),
    )


def padded_vectors(values: Array) -> Array:
    """Return vectors of two components with a third one that is zero."""
    if values.ndim == 2 and values.shape[1] == 2:
        return np.concatenate([values, np.zeros((len(values), 1), values.dtype)], axis=1)
    return values


def _points(name: str, values: Array) -> Array:
    if values.ndim != 2 or values.shape[1] not in (2, 3) or values.dtype.kind not in "iuf" or not len(values):
        raise ConfigError(
            f"the constant {name!r} of shape {values.shape} and dtype {values.dtype} is none of positions, numbers "
            "(nodes, 2) or (nodes, 3); name the right one with --nodes"
        )
    if not np.isfinite(values).all():
        raise ConfigError(f"the constant {name!r} has positions that are not finite")
    double = values.dtype.kind != "f" or values.dtype.itemsize > 4
    return padded_vectors(values.astype(np.float64 if double else np.float32))


def _of_group(constants: Mapping[str, Array], group: str) -> dict[str, str]:
    """Return the constants of a group by kind, such as "mesh/cells/quad": name to kind."""
    found = {}
    for name in sorted(constants):
        kind = re.sub(r"_\d+$", "", name.removeprefix(f"{group}/"))
        if name.startswith(f"{group}/") and kind in KINDS:
            found[name] = kind
    return found


def _blocks(constants: Mapping[str, Array], cells: str | None, *, imported: bool) -> dict[str, str]:
    """Return the constants that hold the cells: name to kind, empty where nothing says it."""
    if cells is None:
        if CELLS in constants:
            return {CELLS: ""}
        return _of_group(constants, IMPORTED_CELLS if imported else CELLS)
    name, _, kind = cells.partition("=")
    if kind and kind not in KINDS:
        raise ConfigError(f"--cells {cells}: the kind must be one of {', '.join(KINDS)}")
    if name in constants:
        return {name: kind}
    found = {} if kind else _of_group(constants, name)
    if not found:
        raise ConfigError(f"there is no constant {name!r} with cells; constants: {sorted(constants)}")
    return found


def _kind(name: str, kind: str, corners: Array, *, flat: bool) -> str:
    """Return the kind of some cells.

    Raises:
        ConfigError: They are none, or could be of two kinds.
    """
    if corners.ndim != 2 or corners.dtype.kind not in "iu":
        raise ConfigError(
            f"the constant {name!r} of shape {corners.shape} and dtype {corners.dtype} is none of cells, integers "
            "(cells, corners); name the right one with --cells"
        )
    count = corners.shape[1]
    if not kind:
        last = re.sub(r"_\d+$", "", name.rpartition("/")[2])
        kind = last if last in KINDS else "quad" if count == 4 and flat else COMMON.get(count, "")
    if not kind and count == 4:
        raise ConfigError(
            f"the cells {name!r} have four corners each, which may be quads or tetrahedra: say --cells {name}=quad or "
            f"--cells {name}=tetra"
        )
    if not kind:
        known = ", ".join(f"{one} {corners}" for one, (_, corners) in KINDS.items())
        raise ConfigError(f"the cells {name!r} have {count} corners each; kinds have {known}")
    if KINDS[kind][1] != count:
        raise ConfigError(f"the cells {name!r} have {count} corners each; a {kind} has {KINDS[kind][1]}")
    return kind
