"""`ImageGrid`: fields of samples on a regular grid, in the form of an image of VTK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec
from physgym.spaces import Array

CHANNELS = ("channel", "channels", "component", "components")  # names of the axis that is none of the grid
DIRECTIONS = "xyz"
MOST_AXES = 3
UNEVEN = 1e-3  # of a spacing: what coordinates in float32 may differ by


@dataclass(frozen=True)
class GridAxes:
    """The axes of a field on a grid.

    Attributes:
        names: Names of the axes of the grid, in the order of the array; empty where nothing says them.
        shape: Their lengths.
        channel: Axis with the components, None for one value per point.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    channel: int | None


@dataclass(frozen=True)
class ImageGrid:
    """A regular grid.

    Attributes:
        shape: Points along each axis, in the order of the arrays.
        origin: Position of the first point, (x, y, z).
        spacing: Distance of neighbours along the axes of the image, the last axis of the arrays first.
        direction: Unit vectors of these axes as columns, shape (3, 3).
        unknown: Names or numbers of axes whose spacing nothing says.
        fields: Axes of each field on it, by name.
    """

    shape: tuple[int, ...]
    origin: Array
    spacing: Array
    direction: Array
    unknown: tuple[str, ...]
    fields: Mapping[str, GridAxes]


def find_grid(
    spec: SampleSpec, dims: Mapping[str, Sequence[str]], constants: Mapping[str, Array]
) -> tuple[ImageGrid | None, dict[str, str]]:
    """Return the grid that most fields have, None where there is none, and why other fields are not on it.

    Args:
        spec: The fields.
        dims: Names of the axes of fields, by field; one of the names `CHANNELS` is that of the components.
        constants: Coordinates along axes, shape (n,), by their names.

    Raises:
        ConfigError: `dims` does not fit a field, or coordinates are not evenly spaced.
    """
    if unknown := sorted(set(dims) - set(spec)):
        raise ConfigError(f"--dim names {unknown}; the fields are {list(spec)}")
    known: dict[str, GridAxes] = {}
    for name, field in spec.items():
        if name in dims:
            known[name] = _named(field, tuple(dims[name]))
    declared = {name: field for name, field in spec.items() if name not in known and field.dimensions}
    whole = [field.shape for field in declared.values() if field.dimensions == len(field.shape)]
    shapes = {axes.shape for axes in known.values()} | {_axes(shape, (), None).shape for shape in whole}
    why: dict[str, str] = {}
    for name, field in declared.items():
        axes = _declared(field, shapes)
        if isinstance(axes, str):
            why[name] = axes
        else:
            known[name] = axes
    for name in [name for name, axes in known.items() if not axes.shape]:
        why[name] = "its grid has one point"
        del known[name]
    if not known:
        return None, why
    shape = Counter(axes.shape for axes in known.values()).most_common(1)[0][0]
    on_it = {name: axes for name, axes in known.items() if axes.shape == shape}
    for name, field in spec.items():
        if name in known and name not in on_it:
            why[name] = f"its grid has {known[name].shape} points, not {shape}"
        elif name not in known and name not in why and _axes(field.shape, (), None).shape == shape:
            on_it[name] = GridAxes((), shape, None)
    names = next((axes.names for axes in on_it.values() if axes.names), ())
    for name, axes in on_it.items():
        if axes.names and axes.names != names:
            raise ConfigError(f"--dim names the axes of {name!r} {list(axes.names)}, those of others {list(names)}")
    return _placed(shape, names, constants, on_it), why


def _named(field: Field, names: tuple[str, ...]) -> GridAxes:
    if len(names) != len(field.shape) or len(set(names)) < len(names):
        raise ConfigError(
            f"--dim {field.name}={','.join(names)} names {len(names)} axes, which must be different ones; the field "
            f"has the shape of {field.shape}"
        )
    channels = [axis for axis, name in enumerate(names) if name in CHANNELS]
    if len(channels) > 1 or not 1 <= len(names) - len(channels) <= MOST_AXES:
        raise ConfigError(
            f"--dim {field.name}={','.join(names)}: an image has 1 to {MOST_AXES} axes, and at most one axis "
            f"{CHANNELS[0]!r}"
        )
    channel = channels[0] if channels else None
    return _axes(field.shape, names, channel)


def _axes(shape: tuple[int, ...], names: tuple[str, ...], channel: int | None) -> GridAxes:
    """Return the axes of a field, without those of one point, which VTK's reader does not expect."""
    kept = [axis for axis, length in enumerate(shape) if axis != channel and length > 1]
    return GridAxes(tuple(names[axis] for axis in kept) if names else (), tuple(shape[axis] for axis in kept), channel)


def _declared(field: Field, shapes: set[tuple[int, ...]]) -> GridAxes | str:
    """Return the axes of a field that declares how many are those of a grid, or why they are unknown."""
    count, shape = field.dimensions or 0, field.shape
    if count > MOST_AXES:
        return f"its grid has {count} axes"
    if count == len(shape):
        return _axes(shape, (), None)
    either = [_axes(shape, (), 0), _axes(shape, (), len(shape) - 1)]
    likely = [axes for axes in either if axes.shape in shapes]
    if len(likely) != 1:  # channels are fewer than points
        likely = [axes for axes in either if shape[axes.channel or 0] == min(shape)]
    if len(likely) != 1:
        return f"its components are its first or its last axis: say --dim {field.name}=channel,..."
    return likely[0]


def _placed(
    shape: tuple[int, ...], names: tuple[str, ...], constants: Mapping[str, Array], fields: Mapping[str, GridAxes]
) -> ImageGrid:
    """Return a grid with the positions that constants of the axes' names say."""
    # the image's first axis is the last one of the arrays
    labels = names or tuple(str(axis) for axis in range(len(shape)))
    given = list(reversed(labels))
    free = [one for one in DIRECTIONS if one not in given]
    letters = [label if label in DIRECTIONS else "" for label in given]
    if any(letters):
        letters = [letter or free.pop(0) for letter in letters]
    else:
        letters, free = list(DIRECTIONS[: len(given)]), list(DIRECTIONS[len(given) :])
    origin, spacing, direction = np.zeros(3), np.ones(3), np.zeros((3, 3))
    unknown = []
    for axis, (label, letter) in enumerate(zip(given, letters, strict=True)):
        direction[DIRECTIONS.index(letter), axis] = 1
        coordinates = constants.get(label) if names else None
        if coordinates is None:
            unknown.append(label)
            continue
        first, distance = _even(label, coordinates, shape[len(shape) - 1 - axis])
        origin[DIRECTIONS.index(letter)], spacing[axis] = first, abs(distance)
        direction[:, axis] *= np.sign(distance)
    for axis, letter in enumerate(free, len(given)):
        direction[DIRECTIONS.index(letter), axis] = 1
    return ImageGrid(shape, origin, spacing, direction, tuple(reversed(unknown)), fields)


def _even(name: str, coordinates: Array, length: int) -> tuple[float, float]:
    """Return the first coordinate and the distance to the next one.

    Raises:
        ConfigError: They do not fit the axis, or are not evenly spaced.
    """
    if coordinates.shape != (length,) or coordinates.dtype.kind not in "iuf":
        raise ConfigError(
            f"the constant {name!r} has the shape {coordinates.shape}; as coordinates of the axis of this name it has "
            f"{length} numbers. Give the axis another name"
        )
    values = coordinates.astype(np.float64)
    distance = (values[-1] - values[0]) / (length - 1)
    if not np.isfinite(values).all() or not distance or np.abs(np.diff(values) / distance - 1).max() > UNEVEN:
        raise ConfigError(
            f"the constant {name!r} is not evenly spaced, as an image of VTK is; give the axis another name, and its "
            "coordinates are those of the index"
        )
    return float(values[0]), float(distance)
