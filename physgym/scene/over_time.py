"""Curves over time of fields that are a few numbers, such as the state of a pendulum, for the default scene.

A sample has one moment alone. Who knows its episode gives the values of all of its steps besides, under names that no
field can have; without them nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from physgym.feedback import following
from physgym.sample import Field
from physgym.scene.objects import Scene
from physgym.scene.style import CURVES, GHOST_COLOUR
from physgym.scene.values import PREDICTION, Values, field
from physgym.spaces import Array

SMALL = 12  # numbers of a field that are drawn one by one
SEPARATE = 8  # curves that have a panel each; more share those of their field and unit
SERIES = "//steps"  # behind the name of a field: its values at all steps of the episode
NOW, TIMES = "//now", "//times"  # the time of the sample, shape (1,), and those of the steps, shape (n,)


def is_small(each: Field, constants: Mapping[str, Array]) -> bool:
    """Return whether a field is a few numbers that are no grid, so that it is drawn over time.

    Args:
        each: The field. One that is a single number, and no target, may be a parameter: it is written alone.
        constants: Constants by name; ``x`` has the abscissae of fields of its length.
    """
    if each.dtype.kind not in "biuf" or each.dimensions is not None:
        return False
    if each.shape in ((), (1,)):
        return each.role == "target"
    axis = constants.get("x")
    return len(each.shape) == 1 and 0 < each.shape[0] <= SMALL and (axis is None or axis.shape != each.shape)


def without_earlier(fields: Sequence[Field]) -> list[Field]:
    """Return fields without those few numbers that are the same as another one a step before."""
    found = {each.name: each for each in fields if each.dimensions is None and np.prod(each.shape) <= SMALL}
    before = {each.feeds for each in found.values() if each.feeds != each.name}
    for name, each in found.items():
        head, slash, last = name.rpartition("/")
        later = found.get(f"{head}{slash}{following(last)}")
        if later is not None and (later.shape, later.unit) == (each.shape, each.unit):
            before.add(name)
    return [each for each in fields if each.name not in before]


def units_of(each: Field) -> list[str]:
    """Return the unit of each component of a field."""
    return in_units(each.unit, each.shape[0] if each.shape else 1)


def in_units(unit: str, count: int) -> list[str]:
    """Return the unit of each of some numbers: of a text such as "m, m/s" its parts, else the one of all."""
    said = [one.strip() for one in unit.split(",")]
    units = said if len(said) == count else [unit] * count
    return ["" if one == "1" else one for one in units]


def add_over_time(scene: Scene, fields: Sequence[Field], xlabel: str = "time") -> None:
    """Add the curves of fields of a few numbers, and over them those of what a network predicts.

    Args:
        scene: The scene.
        fields: The fields.
        xlabel: Label of the abscissae.
    """
    seen: dict[str, int] = {}  # curves of a panel
    separate = sum(each.shape[0] if each.shape else 1 for each in fields) <= SEPARATE
    for each in fields:
        for name, number, unit in _components(each):
            panel = f"{name} over time" if separate else f"{each.name} over time, {unit}"
            style: dict[str, Any] = {"panel": panel, "unit": unit, "group": panel, "xlabel": xlabel}
            style["colour"] = CURVES[seen.get(panel, 0) % len(CURVES)]
            seen[panel] = seen.get(panel, 0) + 1
            for start, ghost in (("", False), (PREDICTION, True)):
                source = f"{start}{each.name}"
                series = field(f"{source}{SERIES}")
                style |= {"label": f"{name}, predicted" if ghost else name, "ghost": ghost}
                if ghost and separate:
                    style["colour"] = GHOST_COLOUR
                values = series[:, number] if each.shape else series
                scene.curve(_free(scene, f"{source}{name[len(each.name) :]}"), values, field(TIMES), **style)
                now = _row(field(source), each, number)
                style |= {"label": f"_{style['label']}", "symbol": "o"}  # a legend leaves it out
                scene.curve(_free(scene, f"{source}{name[len(each.name) :]} now"), now, field(NOW), **style)
                style.pop("symbol")


def _components(each: Field) -> Iterator[tuple[str, int, str]]:
    """Yield name, place and unit of each number of a field."""
    for number, unit in enumerate(units_of(each)):
        yield (f"{each.name}[{number}]" if each.shape not in ((), (1,)) else each.name), number, unit


def _row(values: Values, each: Field, number: int) -> Values:
    """Return one number of a field of a sample, shape (1,)."""
    return values[[number]] if each.shape else values + np.zeros(1)


def _free(scene: Scene, name: str) -> str:
    """Return a name that no object of the scene has."""
    while name in scene.handles:
        name += "'"
    return name
