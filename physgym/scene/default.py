"""The default scene of samples, for simulations that declare none: made of their fields by role and shape.

One-dimensional fields are curves, those on grids are images, those of a mesh are its colours, numbers are texts. A few
numbers are curves over time, where the whole episode is known, and texts elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.sample import Field, SampleSpec
from physgym.scene.meshes import CELLS
from physgym.scene.objects import Scene
from physgym.scene.over_time import add_over_time, is_small, units_of, without_earlier
from physgym.scene.values import (
    PREDICTION,
    Values,
    constant,
    field,
    norm,
    prediction,
    present,
    present_cells,
    present_of_cells,
    stack,
)
from physgym.spaces import Array

NODES = ("nodes", "mesh/nodes", "mesh/points")  # constants that are the nodes of a mesh; the first one there is taken
CELLS_OF = ("cells", "mesh/cells")  # ... its cells, or with /KIND behind it those of a kind
MOVES = ("displacement", "displacements")  # last parts of the names of fields that move a mesh
PLACES = ("points", "positions", "nodes", "coordinates")  # ... that are positions
MADE_BY_RUNS = (PREDICTION, "error/")
FEW = 8  # columns that are seen one by one
MARKED = 40  # numbers of a curve that are seen as such
MOST = 8  # fields that are drawn; a picture of more is too small to read
NUMBERS = 16  # numbers that are written


def default_scene(
    spec: SampleSpec, constants: Mapping[str, Array] | None = None, owner: str = "", *, time: str = "time"
) -> Scene:
    """Return a scene for samples whose simulation declares none, see `add_default`."""
    scene = Scene(owner)
    add_default(scene, spec, constants or {}, time=time)
    return scene


def add_default(scene: Scene, spec: SampleSpec, constants: Mapping[str, Array], *, time: str = "time") -> None:
    """Add the objects that show the fields of samples.

    A mesh is known where constants are called ``nodes`` and ``cells``, or as an import of meshes calls them. A field
    called ``displacement`` moves it. What a network predicts for a curve or a displacement is drawn over it as a ghost,
    for an image next to it.

    Args:
        scene: The scene.
        spec: Fields of the samples; the first eight are drawn, inputs and targets before others, and besides the first
            sixteen that are a few numbers.
        constants: Constants of the dataset by name.
        time: Label of the abscissae of curves over time.
    """
    shown = [f for f in spec.values() if not f.name.startswith(MADE_BY_RUNS)]
    masks = {f.mask for f in shown}
    roles = ("input", "target", "additional")
    ordered = sorted((f for f in shown if f.name not in masks), key=lambda f: roles.index(f.role))
    ordered = without_earlier(ordered)
    mesh = _Mesh.find(constants)
    rest = ordered if mesh is None else mesh.add(scene, ordered)
    numbers = [f for f in rest if _is_number(f, constants)][:NUMBERS]
    most = MOST if mesh is None else max(0, MOST - len(ordered) + len(rest))
    plots = [f for f in rest if not _is_number(f, constants)][:most]
    for each in rest:
        if each in numbers or each in plots:
            _add(scene, each, constants)
    add_over_time(scene, [f for f in numbers if is_small(f, constants)][:MOST], time)


def _last_part(name: str) -> str:
    return name.rpartition("/")[2].removeprefix("next_")


def _unit(each: Field) -> str:
    """Return the unit of a field as it is printed: none where the field has no dimension."""
    return "" if each.unit == "1" else each.unit


def _is_number(each: Field, constants: Mapping[str, Array]) -> bool:
    """Return whether a field is written as numbers."""
    return is_small(each, constants) or (each.dtype.kind in "biuf" and each.shape in ((), (1,)))


def _add_number(scene: Scene, each: Field) -> None:
    """Add the text of a few numbers, and that of what a network predicts for them."""
    name, units = each.name.replace("{", "(").replace("}", ")"), units_of(each)
    form = "{:.6g}" if len(units) == 1 else "{:.4g}"
    numbers = [f"{form} {unit}".strip() for unit in units] if len({*units}) > 1 else [form] * len(units)
    said = numbers[0] if len(units) == 1 else f"({', '.join(numbers)})"
    text = f"{name} = {said} {units[0] if len({*units}) == 1 else ''}".strip()
    scene.text(each.name, text, values=field(each.name))
    scene.text(f"{PREDICTION}{each.name}", f"{text}, predicted", values=prediction(each.name))


def _add(scene: Scene, each: Field, constants: Mapping[str, Array]) -> None:
    """Add a field that belongs to no mesh."""
    said: dict[str, Any] = {"label": each.name, "unit": _unit(each)}
    shape = each.shape
    if each.dtype.kind == "c":
        name = each.name.replace("{", "(").replace("}", ")")
        scene.text(each.name, f"{name} is not drawn: its values are complex")
    if each.dtype.kind not in "biuf":
        return
    if _is_number(each, constants):
        _add_number(scene, each)
    elif (colours := _colours(each)) is not None:
        scene.image(each.name, colours, label=each.name)
    elif len(shape) == 2 and shape[1] in (2, 3) and _last_part(each.name) in PLACES:
        places = field(each.name)
        scene.points(each.name, present(places, field(each.mask)) if each.mask else places, panel=each.name, **said)
    elif len(shape) == 1:
        _add_curve(scene, each, (), each.name, constants)
    elif len(shape) == 2 and each.dimensions != 2 and min(shape) <= FEW:
        along = 0 if shape[1] <= FEW else 1
        for number in range(shape[1 - along]):
            part = (slice(None), number) if along == 0 else (number,)
            _add_curve(scene, each, part, f"{each.name}[{number}]", constants)
    else:
        _add_images(scene, each)


def _colours(each: Field) -> Values | None:
    """Return the colours of a field that is a picture, the last one of several; None where it is none."""
    values, shape = field(each.name), each.shape
    if each.dtype != np.uint8:
        return None
    if len(shape) == 4 and shape[3] == 3:
        return values[-1]
    if len(shape) == 2 and min(shape) > FEW:
        return stack(values, values, values)
    if len(shape) != 3 or sorted(shape)[1] <= FEW:
        return None
    if shape[2] == 3:
        return values
    if shape[0] == 3:
        return stack(*(values[number] for number in range(3)))
    grey = values[-1] if shape[0] < shape[2] else values[:, :, -1]
    return stack(grey, grey, grey)


def _add_curve(scene: Scene, each: Field, part: Any, name: str, constants: Mapping[str, Array]) -> None:
    length = max(each.shape)
    axis = constants.get("x")
    x = constant("x") if axis is not None and axis.shape == (length,) else None
    panel = f"{length} {each.unit}"  # curves of a length and a unit share their axes
    dots = length <= MARKED and len(each.shape) == 1 and x is None and each.dimensions is None  # a line says: a grid
    symbol = "o" if length <= MARKED else ""
    xlabel = "x" if x is not None else "grid point" if each.dimensions == 1 else "index"

    def of(values: Values) -> Values:
        return values[part] if part else values

    style: dict[str, Any] = {"unit": _unit(each), "line_width": 0.0 if dots else 1.0}
    scene.curve(name, of(field(each.name)), x, xlabel=xlabel, symbol=symbol, panel=panel, label=name, **style)
    scene.curve(
        f"{PREDICTION}{name}",
        of(prediction(each.name)),
        x,
        symbol=symbol,
        panel=panel,
        label=f"{name}, predicted",
        ghost=True,
        **style,
    )


def _add_images(scene: Scene, each: Field) -> None:
    """Add an image, or one for each of the first channels; of three dimensions the middle slice."""
    shape, grid = each.shape, each.dimensions or min(len(each.shape), 3)
    channels: list[tuple[Any, ...]] = [()]
    inner = shape
    if len(shape) > grid:  # an axis of channels, which is first or last: the shorter one
        first = shape[0] <= shape[-1]
        count = min(shape[0] if first else shape[-1], 3)
        inner = shape[1:] if first else shape[:-1]
        channels = [(number,) if first else (..., number) for number in range(count)]
    for part in channels:
        name = f"{each.name}[{part[-1]}]" if part else each.name
        middle = tuple(side // 2 for side in inner[:-2])
        last = bool(part) and part[0] is ...
        key = (*middle, slice(None), slice(None), part[-1]) if last else (*part, *middle)
        slices = "".join(f", slice {at} of {side}" for at, side in zip(middle, inner, strict=False))
        for taken, called in ((field(each.name), name), (prediction(each.name), f"{PREDICTION}{name}")):
            label = f"{name}{slices}" if called == name else f"{name}, predicted{slices}"
            values = taken[key] if key else taken
            scene.image(called, values, label=label, unit=_unit(each), group=name)


class _Mesh:
    """The mesh that constants describe: its nodes, and its cells by kind."""

    def __init__(self, nodes: str, cells: dict[str, str | None], constants: Mapping[str, Array]) -> None:
        self.nodes, self.cells, self.mask = nodes, cells, ""  # the mask of the nodes' positions
        self.count, self.dimensions = constants[nodes].shape
        self.cell_count = len(constants[next(iter(cells))]) if len(cells) == 1 else -1

    @classmethod
    def find(cls, constants: Mapping[str, Array]) -> _Mesh | None:
        """Return it, None where there is none."""
        nodes = next((name for name in NODES if name in constants), None)
        if nodes is None or constants[nodes].ndim != 2 or constants[nodes].shape[1] not in (2, 3):
            return None
        cells: dict[str, str | None] = {}
        for start in CELLS_OF:
            cells |= {start: None} if start in constants else {}
            cells |= {f"{start}/{kind}": kind for kind in CELLS if f"{start}/{kind}" in constants}
        known = {name: kind for name, kind in cells.items() if constants[name].ndim == 2}
        return cls(nodes, known, constants) if known else None

    def add(self, scene: Scene, fields: list[Field]) -> list[Field]:
        """Add the mesh in the colours of fields, and return the fields that are none of it."""
        mine = [f for f in fields if self._has(f)][:MOST]
        moving = next((f for f in mine if _last_part(f.name) in MOVES and f.shape[-1:] == (self.dimensions,)), None)
        places = next((f for f in mine if _last_part(f.name) in PLACES and f.shape[-1:] == (self.dimensions,)), None)
        points = constant(self.nodes)
        if places is not None:
            points = field(places.name)
        elif moving is not None:
            points = points + field(moving.name)
        placed = places or moving
        self.mask = placed.mask if placed is not None else ""
        coloured = [f for f in mine if f is not places]
        if not coloured:
            self._add_cells(scene, "mesh", points)
        for each in coloured:
            self._add_mesh(scene, each, points)
        if moving is not None and places is None:
            ghost = constant(self.nodes) + prediction(moving.name)
            self._add_cells(scene, f"{PREDICTION}{moving.name}", ghost, panel=moving.name, ghost=True)
        return [f for f in fields if f not in mine]

    def _has(self, each: Field) -> bool:
        if each.dtype.kind not in "biuf" or not each.shape:
            return False
        if each.shape == (self.cell_count,) and self.cell_count != self.count:
            return True
        return each.shape[0] == self.count and (len(each.shape) == 1 or (len(each.shape) == 2 and each.shape[1] <= 3))

    def _add_mesh(self, scene: Scene, each: Field, points: Values) -> None:
        """Add the mesh in the colours of a field: its values, or the lengths of its vectors."""
        values = field(each.name)
        if len(each.shape) == 2:
            values = norm(values) if each.shape[1] > 1 else values[:, 0]
        key = "scalars" if each.shape[0] == self.count else "cell_scalars"
        style = {key: values, "panel": each.name, "label": each.name, "unit": _unit(each)}
        self._add_cells(scene, each.name, points, **style)

    def _add_cells(self, scene: Scene, name: str, points: Values, **style: Any) -> None:
        for cells, kind in self.cells.items():
            called = name if len(self.cells) == 1 else f"{name} ({kind or 'cells'})"
            if not self.mask:
                scene.mesh(called, points, constant(cells), cell=kind, **style)
                continue
            mask, own = field(self.mask), {**style}
            if "scalars" in own:
                own["scalars"] = present(own["scalars"], mask)
            if "cell_scalars" in own:
                own["cell_scalars"] = present_of_cells(own["cell_scalars"], constant(cells), points, mask)
            there = present(points, mask), present_cells(constant(cells), points, mask)
            scene.mesh(called, *there, cell=kind, **own)
