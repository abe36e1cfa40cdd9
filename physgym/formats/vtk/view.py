"""`View`: what of a dataset a file of VTK shows, on a mesh or on a grid, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.labelled import plain_name
from physgym.errors import ConfigError
from physgym.formats.vtk.grid import GridAxes, ImageGrid, find_grid
from physgym.formats.vtk.mesh import Mesh, find_mesh, padded_vectors
from physgym.formats.vtk.rows import MappedArray
from physgym.sample import Field, SampleSpec
from physgym.spaces import Array

LONGEST = 16  # numbers of a field that is a value per step
INDICES = ("episode", "step")


@dataclass(frozen=True)
class View:
    """Arrays of a file of VTK.

    Attributes:
        mesh: The mesh, None for a grid.
        grid: The grid, None for a mesh.
        points: Fields with a value per point.
        cells: Fields with a value per cell.
        values: Fields with a value per step, and where the samples come from.
        constants: Constants with a value per point ("PointData") or cell ("CellData"), by name, which are copied.
        remarks: What the user should know of it.
    """

    mesh: Mesh | None
    grid: ImageGrid | None
    points: Sequence[MappedArray]
    cells: Sequence[MappedArray]
    values: Sequence[MappedArray]
    constants: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def view_of(dataset: SampleDataset, nodes: str | None, cells: str | None, dims: Mapping[str, Sequence[str]]) -> View:
    """Return what of a dataset fits a file of VTK: on its mesh where it has one, else on its grid.

    Args:
        dataset: The samples.
        nodes: Name of the nodes, see `find_mesh`.
        cells: Name of the cells, as there.
        dims: Names of the axes of fields on a grid, see `find_grid`; they decide for the grid.

    Raises:
        ConfigError: Nothing fits, names do not, or two arrays would have one name.
    """
    if dims and (nodes or cells):
        raise ConfigError("--dim is for fields on a grid, --nodes and --cells for those on a mesh; give one of them")
    seen = {name: one for name, one in dataset.spec.items() if shown_dtype(one.dtype) and 0 not in one.shape}
    left = {name: f"{one.dtype}" for name, one in dataset.spec.items() if name not in seen}
    mesh = None if dims else find_mesh(dataset, nodes, cells)
    if mesh is not None:
        found = _on_mesh(mesh, seen, left, dataset.constants)
        if found is not None:
            return found
        if nodes or cells:
            raise ConfigError(
                f"no field has a value for each of {mesh.nodes} nodes or {mesh.cells} cells: {_shapes(dataset.spec)}"
            )
    spec = SampleSpec(list(seen.values())) if seen else None
    grid, why = (None, {}) if spec is None else find_grid(spec, dims, dataset.constants)
    if grid is not None:
        return _on_grid(grid, seen, {**left, **why})
    more = f" ({_listed(why)})" if why else ""
    raise ConfigError(
        "there is nothing that a file of VTK could show. Fields on a mesh need its nodes: a constant 'nodes', or "
        "another array of (nodes, 2) or (nodes, 3) by --nodes. Fields on a grid declare sample_dimensions, or "
        f"name their axes: --dim FIELD=y,x. The fields are {_shapes(dataset.spec)}{more}"
    )


def shown_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the dtype with which VTK reads values of another one, None where it has none."""
    if dtype.kind == "b":
        return np.dtype("i1")
    if dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8)):
        return dtype.newbyteorder("<")
    return np.dtype("<f4") if dtype.kind == "f" and dtype.itemsize == 2 else None


def _shapes(spec: SampleSpec) -> str:
    return ", ".join(f"{name} {one.shape}" for name, one in spec.items())


def _listed(why: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in why.items())


def _mapped(one: Field, **form: Any) -> MappedArray:
    dtype = shown_dtype(one.dtype)
    assert dtype is not None  # others were left out
    return MappedArray(plain_name(one.name), f"data/{one.name}", one.shape, dtype, unit=one.unit, **form)


def _values(fields: Sequence[Field]) -> list[MappedArray]:
    """Return what has a value per step: where samples come from, and small fields."""
    small = [_mapped(one, components=one.shape[0] if one.shape else 1) for one in fields]
    taken = {one.name for one in small}
    index = []
    for name in INDICES:
        label = name if name not in taken else f"index.{name}"
        index.append(MappedArray(label, f"index/{name}", (), np.dtype("<i8")))
    return [*index, *small]


def _per_step(one: Field) -> bool:
    return not one.shape or (len(one.shape) == 1 and one.shape[0] <= LONGEST)


def _on_mesh(
    mesh: Mesh, seen: Mapping[str, Field], left: Mapping[str, str], constants: Mapping[str, Array]
) -> View | None:
    """Return what is shown on a mesh, None where no field is."""
    points, cells, small, remarks = [], [], [], []
    why = dict(left)
    for name, one in seen.items():
        if name == mesh.moving:
            continue
        width = int(np.prod(one.shape[1:], dtype=int))
        if one.shape and one.shape[0] == mesh.nodes:
            points.append(_mapped(one, extent=(mesh.nodes,), components=width))
        elif one.shape and one.shape[0] == mesh.cells:
            cells.append(_mapped(one, extent=(mesh.cells,), components=width))
        elif _per_step(one):
            small.append(one)
        else:
            why[name] = f"{one.shape} are not {mesh.nodes} nodes or {mesh.cells} cells"
    if not points and not cells and not mesh.moving:
        return None
    if points and mesh.nodes == mesh.cells and (mesh.kinds != 1).any():
        remarks.append(f"there are {mesh.nodes} nodes and as many cells; fields are taken as values of nodes")
    masked = {name: f"mask {one.mask}" for name, one in seen.items() if one.mask and name not in why}
    if masked:
        remarks.append(f"padding is shown too, as it is stored: {_listed(masked)}")
    copied: dict[str, dict[str, Array]] = {"PointData": {}, "CellData": {}}
    for name, value in constants.items():
        dtype = shown_dtype(value.dtype)
        if name in mesh.constants or dtype is None or not value.ndim or not value.size:
            continue
        group = {mesh.cells: "CellData", mesh.nodes: "PointData"}.get(len(value))
        if group is not None:
            flat = value.astype(dtype).reshape(len(value), -1) if value.ndim > 1 else value.astype(dtype)
            label = plain_name(name)
            taken = {one.name for one in (points if group == "PointData" else cells)}
            copied[group][f"constant.{label}" if label in taken else label] = padded_vectors(flat)
    if why:
        remarks.append(f"left out: {_listed(why)}")
    return _checked(View(mesh, None, points, cells, _values(small), copied, remarks))


def _on_grid(grid: ImageGrid, seen: Mapping[str, Field], left: Mapping[str, str]) -> View:
    """Return what is shown on a grid."""
    points, small, remarks, why = [], [], [], dict(left)
    for name, one in seen.items():
        if name in grid.fields:
            points.append(_on_points(one, grid.fields[name], grid.shape))
        elif name not in why and _per_step(one):
            small.append(one)
        else:
            why.setdefault(name, f"{one.shape} is not the grid {grid.shape}")
    if grid.unknown:
        axes = ", ".join(grid.unknown)
        remarks.append(
            f"the spacing along the axes {axes} is 1: no constants of their names say where their points are (--dim)"
        )
    if why:
        remarks.append(f"left out: {_listed(why)}")
    return _checked(View(None, grid, points, [], _values(small), {}, remarks))


def _on_points(one: Field, axes: GridAxes, extent: tuple[int, ...]) -> MappedArray:
    if axes.channel is None or one.shape[axes.channel] == 1:
        return _mapped(one, extent=extent, flat=False)
    channel = None if axes.channel == len(one.shape) - 1 else axes.channel
    return _mapped(one, extent=extent, components=one.shape[axes.channel], channel=channel, flat=False)


def _checked(view: View) -> View:
    """Raise where two arrays of a kind have one name."""
    for group, arrays in (("PointData", view.points), ("CellData", view.cells), ("FieldData", view.values)):
        names = [one.name for one in arrays] + list(view.constants.get(group, ()))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two arrays would be called {twice[0]!r} there; rename one (physgym data rename)")
    return view
