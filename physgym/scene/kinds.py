"""Kinds of objects of a scene: which arrays and settings each has, and what becomes of them in a snapshot.

Each function checks the arrays of an object and returns them as every viewer gets them: positions of shape (n, 3), the
surface of volumes in place of their cells. Wrong ones are a ValueError, whose text the scene completes by the object's
name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.scene.meshes import CELLS, CORNERS, check_cells, kind_of_cells, surface
from physgym.spaces import Array

Arrays = dict[str, Array]
ObjectSettings = Mapping[str, Any]

SYMBOLS = ("", "o", "x", "+", "s", "^", "*")
SHAPES = ("sphere", "cube", "cone", "cylinder")
PLACE = re.compile(r"\{(:[+ ]?\d*(\.\d+)?[defg%]?)?\}")  # of a number in a text


def _numbers(arrays: Arrays, name: str) -> Array:
    """Return an array of real numbers, contiguous and owned by nobody else; float64 unless it is float32."""
    values = arrays[name]
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, not {values.dtype}")
    return np.array(values, values.dtype if values.dtype == np.float32 else np.float64, order="C")


def _positions(arrays: Arrays, name: str, rows: int | None = None) -> Array:
    """Return positions or vectors with three components, shape (n, 3); one alone may come without its axis.

    Raises:
        ValueError: Their shape is another one, or some are not finite.
    """
    given = _numbers(arrays, name)
    values = given[None] if given.ndim == 1 else given
    if values.ndim != 2 or values.shape[1] not in (2, 3):
        raise ValueError(f"{name} must have the shape (n, 3) or (n, 2), not {given.shape}")
    if rows is not None and len(values) != rows:
        raise ValueError(f"{name} has {len(values)} rows, and there are {rows} points")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} has {int(bad.sum())} rows that are not finite, the first is row {int(np.argmax(bad))}: "
            f"{values[int(np.argmax(bad))].tolist()}"
        )
    if values.shape[1] == 3:
        return values
    flat = np.zeros((len(values), 3), values.dtype)
    flat[:, :2] = values
    return flat


def _row_of_numbers(arrays: Arrays, name: str, rows: int, what: str) -> Array:
    values = _numbers(arrays, name)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (rows,):
        raise ValueError(f"{name} must have a value for each of the {rows} {what}, shape ({rows},), not {values.shape}")
    return np.ascontiguousarray(values)


def _cells(arrays: Arrays, points: int, corners: int | None = None) -> Array:
    cells = arrays["cells"]
    if cells.dtype.kind not in "iu" or cells.ndim != 2 or corners not in (None, cells.shape[1]):
        raise ValueError(
            f"cells must be numbers of points, integers of shape (m, {corners or 'corners'}), not {cells.dtype} "
            f"{cells.shape}"
        )
    check_cells(cells, points)
    return cells


def _dots(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    """Return points with a scalar for each, where there are some."""
    points = _positions(arrays, "points")
    found = {"points": points}
    if "scalars" in arrays:
        found["scalars"] = _row_of_numbers(arrays, "scalars", len(points), "points")
    return found


def _mesh(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    found = _dots(arrays, settings, cache)
    cells, count = arrays["cells"], len(found["points"])
    known = cache.get("cells")
    # one that looks at the topology again at each step would be slow: the surface is kept for the same cells
    if known is None or cache["count"] != count or not (known is cells or np.array_equal(known, cells)):
        _cells(arrays, count)
        kind = settings["cell"] or kind_of_cells(cells.shape[1], arrays["points"].shape[-1])
        if cells.shape[1] != CORNERS[kind]:
            raise ValueError(f"cells of kind {kind!r} have {CORNERS[kind]} corners, not {cells.shape[1]}")
        faces, owners = surface(cells, kind)
        cache.update(cells=cells.copy() if cells.flags.writeable else cells, count=count, faces=faces, owners=owners)
    found["faces"] = cache["faces"]
    if "cell_scalars" in arrays:
        if "scalars" in arrays:
            raise ValueError("scalars and cell_scalars cannot both give the colours; leave one out")
        found["face_scalars"] = _row_of_numbers(arrays, "cell_scalars", len(cells), "cells")[cache["owners"]]
    return found


def _glyphs(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    found = _dots(arrays, settings, cache)
    if "vectors" in arrays:
        found["vectors"] = _positions(arrays, "vectors", len(found["points"]))
    return found


def _arrows(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    """Return arrows; where no scale is given, the scene scales them by what it has shown."""
    found = _glyphs(arrays, settings, cache)
    if settings["scale"] is not None:
        found["vectors"] = found["vectors"] * found["vectors"].dtype.type(settings["scale"])
    return found


def _lines(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    found = _dots(arrays, settings, cache)
    count = len(found["points"])
    if "cells" in arrays:
        segments = np.array(_cells(arrays, count, 2), np.int32)
    else:
        segments = np.stack([np.arange(count - 1), np.arange(1, count)], -1).astype(np.int32)
    return {**found, "segments": np.ascontiguousarray(segments.reshape(-1, 2))}


def _text(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    """Check the numbers that a text shows; the text itself is made by `text_of`."""
    text_of(settings["text"], arrays.get("values"))
    return {"point": _positions(arrays, "point")[0]} if "point" in arrays else {}


def text_of(text: str, values: Array | None) -> str:
    """Return a text with numbers in the place of ``{}`` or ``{:.3g}``.

    Raises:
        ValueError: There are more or fewer numbers than places.
    """
    places = [found.group(0) for found in PLACE.finditer(text)]
    if values is None:
        return text
    numbers = np.asarray(values).ravel().tolist()
    if len(places) != len(numbers):
        raise ValueError(
            f"the text {text!r} has {len(places)} places such as {{:.3g}}, and there are {len(numbers)} values"
        )
    given = iter(numbers)
    return PLACE.sub(lambda found: found.group(0).format(next(given)), text)


def _image(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    given = arrays["values"]
    if given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3 and given.size:
        return {"values": np.array(given, order="C")}
    values = _numbers(arrays, "values")
    if values.ndim != 2 or not values.size:
        raise ValueError(
            "values of an image must have the shape (rows, columns), or be colours, uint8 of shape (rows, columns, 3), "
            f"not {values.dtype} {values.shape}"
        )
    return {"values": values}


def _curve(arrays: Arrays, settings: ObjectSettings, cache: dict[str, Any]) -> Arrays:
    values = _numbers(arrays, "values")
    if values.ndim != 1:
        raise ValueError(f"values of a curve must have the shape (n,), not {values.shape}")
    if "x" not in arrays:
        first, last = settings["ends"] or (0.0, len(values) - 1.0)
        return {"x": np.linspace(first, last, len(values)), "values": values}
    return {"x": _row_of_numbers(arrays, "x", len(values), "values"), "values": values}


@dataclass(frozen=True)
class ObjectKind:
    """A kind of objects.

    Attributes:
        build: Checks arrays, and returns those of a snapshot.
        needed: Arrays without which there is nothing to draw.
        other: Further arrays that it may have.
        settings: Settings of its own, with their defaults.
        spatial: Whether it lies in space, and is seen by the camera.
    """

    build: Callable[[Arrays, ObjectSettings, dict[str, Any]], Arrays]
    needed: tuple[str, ...]
    other: tuple[str, ...] = ()
    settings: ObjectSettings = field(default_factory=dict)
    spatial: bool = True


KINDS = {
    "mesh": ObjectKind(_mesh, ("points", "cells"), ("scalars", "cell_scalars"), {"cell": None}),
    "points": ObjectKind(_dots, ("points",), ("scalars",)),
    "markers": ObjectKind(_dots, ("points",), ("scalars",), {"symbol": "o"}),
    "glyphs": ObjectKind(_glyphs, ("points",), ("vectors", "scalars"), {"shape": "sphere", "scale": 1.0}),
    "arrows": ObjectKind(_arrows, ("points", "vectors"), ("scalars",), {"scale": None}),
    "lines": ObjectKind(_lines, ("points",), ("cells", "scalars")),
    "text": ObjectKind(_text, (), ("values", "point"), {"text": ""}),
    "image": ObjectKind(_image, ("values",), (), {"extent": None}, spatial=False),
    "curve": ObjectKind(_curve, ("values",), ("x",), {"ends": None, "xlabel": "", "symbol": ""}, spatial=False),
}
PLOTS = tuple(name for name, kind in KINDS.items() if not kind.spatial)
COLOURED = ("scalars", "face_scalars")  # arrays of a snapshot whose range is the limits; of images and curves "values"
CHOICES: dict[str, tuple[Any, ...]] = {"cell": (None, *CELLS), "symbol": SYMBOLS, "shape": SHAPES}
