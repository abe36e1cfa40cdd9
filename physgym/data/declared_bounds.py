"""Bounds that a simulation declares for the fields of its samples, compared with the values that are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from physgym.data.statistics import Statistics
from physgym.spaces import Array, ValueRange, from_json, is_custom, leaf_spaces, value_range


class Beyond(NamedTuple):
    """A value beyond the bounds of a field.

    Attributes:
        value: The value.
        bound: The bound.
        place: Index of its component in the field; empty for a field of a single number.
    """

    value: float
    bound: float
    place: tuple[int, ...]


def field_ranges(space: gymnasium.Space[Any]) -> dict[str, ValueRange]:
    """Return the range of each field of a space of samples, by name, as far as it has one."""
    found = {name: value_range(leaf) for name, leaf in leaf_spaces(space).items()}
    return {name: one for name, one in found.items() if one is not None}


def first_beyond(declared: ValueRange, smallest: Array, largest: Array) -> Beyond | None:
    """Return a value beyond the bounds of a field; None where there is none.

    Args:
        declared: The range of the field.
        smallest: The smallest value of each number, shape of the field.
        largest: The largest ones.
    """
    shape = np.shape(declared.low)
    if np.shape(smallest) != shape:
        return None
    for values, bound, outside in (
        (smallest, declared.low, declared.has_low & (smallest < declared.low)),
        (largest, declared.high, declared.has_high & (largest > declared.high)),
    ):
        if np.any(outside):
            flat = np.flatnonzero(outside)[0]
            place = tuple(int(index) for index in np.unravel_index(flat, shape)) if shape else ()
            return Beyond(float(np.ravel(values)[flat]), float(np.ravel(bound)[flat]), place)
    return None


def lines_beyond(attributes: Mapping[str, str], statistics: Mapping[str, Statistics]) -> Iterator[str]:
    """Say which fields of stored samples have values beyond the bounds that their simulation declares.

    Args:
        attributes: Of a partition, which name the spaces of the simulation.
        statistics: Of the samples, by field. Values that are not finite are not in them.
    """
    space = json.loads(attributes.get("spaces") or "{}").get("sample_space")
    if space is None or is_custom(space):
        return
    for name, declared in field_ranges(from_json(space)).items():
        known = statistics.get(name)
        found = None if known is None else first_beyond(declared, known.min, known.max)
        if known is None or found is None:
            continue
        side = "lowest" if found.value < found.bound else "highest"
        place = ", ".join(map(str, found.place))
        where = f" in component {place}" if place else ""
        low, high = known.min[found.place], known.max[found.place]
        yield (
            f"field {name!r} has values beyond the bounds of sample_space, such as {found.value:g}{where} where "
            f"{found.bound:g} is the {side}; all are from {low:g} to {high:g}{where}"
        )
