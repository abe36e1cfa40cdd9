"""Scenes of prediction errors: what a network predicts, against what is true, object by object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.scene.changes import SceneSnapshot
from physgym.scene.kinds import PLOTS
from physgym.scene.style import COLOUR_MAP
from physgym.scene.values import factor_of, fields_of
from physgym.spaces import Array

SIGNED, UNSIGNED = "RdBu_r", COLOUR_MAP  # colours of errors with a sign, and of their sizes
OF_SCALARS = ("scalars", "face_scalars")
AS_DRAWN = "distance as drawn"  # in place of a unit, where the picture's distance is not that of the fields


@dataclass(frozen=True)
class Distance:
    """A distance in a picture, as one of fields.

    Attributes:
        factor: By how much the picture enlarges it; 1 where that is not known.
        unit: Unit of the fields, `AS_DRAWN` where the factor is not known; empty where there is not one alone.
    """

    factor: float = 1.0
    unit: str = ""


class PredictionErrors:
    """Scenes of the differences between predicted and true ones; their colours mean the same in all of them.

    An image or a curve becomes the predicted values less the true ones. An object in space stays where it truly is, and
    its colours are the distance of each point to the predicted one; where its points are not predicted, the difference
    of its scalars; those of arrows are the length of the difference of their vectors. A distance is that of the fields:
    it is divided by the factor by which the object enlarges them (``constant("nodes") + 10 * field("displacement")``),
    and labelled `AS_DRAWN` where there is no such factor. What no prediction moves or
    colours stays, but for images and curves.

    Args:
        objects: Declarations of the objects that predictions move or colour, see `Scene.declaration`.
        units: Units of the predicted fields, by name; empty where they are not known.
    """

    def __init__(self, objects: Iterable[Mapping[str, Any]], units: Mapping[str, str]) -> None:
        self._distances = {one["name"]: _distances(one["arrays"], units) for one in objects}
        self._predicted = frozenset(self._distances)
        self._largest: dict[str, float] = {}

    def snapshot(self, true: SceneSnapshot, network: SceneSnapshot) -> SceneSnapshot:
        """Return the scene of the differences between two scenes of the same sample."""
        objects = {}
        for name, one in true["objects"].items():
            other = network["objects"].get(name)
            if name not in self._predicted:
                if one["kind"] not in PLOTS:
                    objects[name] = one
            elif other is not None and (found := self._difference(name, one, other)) is not None:
                objects[name] = found
        return {**true, "objects": objects}

    def network(self, predicted: SceneSnapshot) -> SceneSnapshot:
        """Return the scene of the network without the plots of which it predicts nothing."""
        every = predicted["objects"]
        mine = {every[name]["panel"] for name in self._predicted & every.keys() if every[name]["kind"] in PLOTS}
        kept = {name: one for name, one in every.items() if one["kind"] not in PLOTS or one["panel"] in mine}
        return {**predicted, "objects": kept}

    def _difference(self, name: str, true: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an object that shows the error of another one; None where nothing of it can be compared."""
        found = {key: value for key, value in true.items() if key not in OF_SCALARS}
        found |= {"ghost": False, "alpha": 1.0, "wireframe": False}
        if true["kind"] in PLOTS:
            if network["values"].shape != true["values"].shape:
                return None
            if "limits" not in true:  # a picture in colours of its own
                difference = np.abs(network["values"].astype(int) - true["values"])
                return {**found, "values": difference.astype(np.uint8)}
            values = network["values"] - true["values"]
            return {**found, "values": values, **self._scale(name, values, signed=True)}
        if _same(*(_unscaled(item, "vectors") for item in (true, network))):
            return dict(true)  # it is fixed to what moves
        for key in ("points", "scalars", "face_scalars", "vectors"):
            one, other = (_unscaled(item, key) for item in (true, network))
            if one is None or other is None or one.shape != other.shape or _same(one, other):
                continue
            if key in OF_SCALARS:
                return {**found, key: other - one, **self._scale(name, other - one, signed=True)}
            distance = self._distances[name].get(key, Distance())
            sizes = np.linalg.norm(other - one, axis=1) / distance.factor
            return {**found, "scalars": sizes, "unit": distance.unit, **self._scale(name, sizes, signed=False)}
        if true["kind"] in ("text", "markers"):
            return None
        none = np.zeros(len(true["points"]))  # predicted exactly
        distance = next(iter(self._distances[name].values()), Distance())
        return {**found, "scalars": none, "unit": distance.unit, **self._scale(name, none, signed=False)}

    def _scale(self, name: str, values: Array, *, signed: bool) -> dict[str, Any]:
        """Return colours and limits, which grow with the largest error that was shown."""
        finite = values[np.isfinite(values)]
        here = float(np.abs(finite).max()) if finite.size else 0.0
        largest = self._largest[name] = max(here, self._largest.get(name, 0.0))
        largest = largest or 1.0
        return {"colours": SIGNED if signed else UNSIGNED, "limits": [-largest if signed else 0.0, largest]}


def common_unit(units: Iterable[str]) -> str:
    """Return the unit of distances between fields of these units; empty where there is not one alone."""
    found = set(units)
    unit = found.pop() if len(found) == 1 else ""
    return "" if "," in unit else unit  # "m, m/s": of parts of a field


def _distances(arrays: Mapping[str, Any], units: Mapping[str, str]) -> dict[str, Distance]:
    """Return how distances in the arrays of an object are those of predicted fields, by the array's name."""
    found = {}
    for key in ("points", "vectors"):
        if key in arrays and (named := [units[name] for name in fields_of(arrays[key]) if name in units]):
            factor = factor_of(arrays[key], units)
            found[key] = Distance(factor, common_unit(named)) if factor else Distance(unit=AS_DRAWN)
    return found


def _same(one: Array | None, other: Array | None) -> bool:
    """Return whether arrays are equal, up to what scaling has rounded."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool(np.allclose(one, other, rtol=1e-12, atol=0.0, equal_nan=True))


def _unscaled(item: Mapping[str, Any], key: str) -> Array | None:
    """Return an array of an object; vectors of arrows as they were before these were made as long as they are drawn."""
    found: Array | None = item.get(key)
    scaled = key == "vectors" and item["kind"] == "arrows" and item.get("scale")
    return found / item["scale"] if scaled and found is not None else found
