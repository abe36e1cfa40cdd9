"""Pictures of samples: one of them, or an episode over its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from physgym.sample import Field, SampleSpec, present
from physgym.scene.over_time import is_small, units_of, without_earlier
from physgym.scene.pictures import ArrayPanel, Picture, draw_arrays
from physgym.spaces import Array

NUMBERS = "biufc"  # kinds of dtypes
LARGEST = 12  # panels in a picture
SHORT = 40  # signs of a value in a title
COMPONENTS = 4  # a last axis up to this long holds components


def draw_sample(spec: SampleSpec, sample: Mapping[str, Array], title: str) -> Picture:
    """Draw the fields of one sample: numbers and texts above, an array of numbers as bars, a curve or an image.

    Args:
        spec: The fields.
        sample: Their values, of shape (1, *field shape).
        title: Text above.

    Raises:
        ConfigError: There is no number, or matplotlib is not installed.
    """
    found = _readable(sample, spec)
    single, panels = [], []
    for name, field in spec.items():
        values = found[name][0]
        if values.size > 1 and values.dtype.kind in "biuf" and is_small(field, {}):
            panels += _panels_of_numbers(name, field, values)
        elif values.size > 1 and values.dtype.kind in NUMBERS:
            panels.append(_panel_of_sample(name, field, values))
        else:
            single.append(f"{name} = {_text(values)}{_unit(field)}")
    if not panels:  # single numbers: a bar would say less than their text
        values = [_numbers(found[name][0]).reshape(-1) for name in spec if found[name].dtype.kind in NUMBERS]
        panels = [ArrayPanel("all numbers", np.concatenate(values))] if any(map(len, values)) else []
    return draw_arrays(panels[:LARGEST], title="\n".join([title, *single, *_left_out(panels)]))


def draw_episode(spec: SampleSpec, samples: Mapping[str, Array], steps: Array, title: str) -> Picture:
    """Draw the fields of an episode over its steps: as curves, or as an image where a field has many components.

    Of a field with several axes the root mean square is drawn, as its title says. A few numbers have a panel each, and
    those that are the same as others a step before have none.

    Args:
        spec: The fields.
        samples: Their values, of shape (n, *field shape).
        steps: The steps, ascending, shape (n,).
        title: Text above.

    Raises:
        ConfigError: There is no number, or matplotlib is not installed.
    """
    found = _readable(samples, spec)
    panels, texts = [], []
    fields = without_earlier([*spec.values()])
    several = [field for field in fields if field.shape[:1] > (1,) and is_small(field, {})]
    separate = len(fields) + sum(field.shape[0] - 1 for field in several) <= LARGEST
    for name, field in ((field.name, field) for field in fields):
        if found[name].dtype.kind not in NUMBERS or not math.prod(field.shape):
            texts.append(name)
            continue
        columns, shown = _numbers(found[name]).reshape(len(steps), -1), _name(name, found[name])
        if field in several and (separate or len({*units_of(field)}) > 1):
            panels += [
                ArrayPanel(f"{name}[{number}]", columns[:, number], unit, steps, "step")
                for number, unit in enumerate(units_of(field))
            ]
            continue
        if len(field.shape) > 1:
            columns, shown = np.sqrt(_mean_of_present(columns**2)), f"root mean square of {name}"
        elif columns.shape[1] == 1:
            columns = columns[:, 0]
        panels.append(ArrayPanel(shown, columns, field.unit, steps, "step"))
    lines = [title, *_left_out(panels), *([f"no numbers: {', '.join(texts)}"] if texts else [])]
    return draw_arrays(panels[:LARGEST], title="\n".join(lines))


def _panels_of_numbers(name: str, field: Field, values: Array) -> list[ArrayPanel]:
    """Return the panels of a few numbers, those of one unit together."""
    units, found = units_of(field), []
    for unit in dict.fromkeys(units):
        places = tuple(number for number, one in enumerate(units) if one == unit)
        found.append(ArrayPanel(f"{name} {field.shape}", _numbers(values)[[*places]], unit, places=places))
    return found


def _panel_of_sample(name: str, field: Field, values: Array) -> ArrayPanel:
    """Return a panel of an array of at least two numbers; of one with more than two axes a slice, which is named."""
    shown, title = _numbers(values), _name(name, values)
    while shown.ndim > 2 and shown.shape[0] == 1:
        shown = shown[0]
    if shown.ndim > 2:
        last = shown.shape[-1] <= COMPONENTS < shown.shape[0]  # components lie behind the grid
        before = tuple(size // 2 if size > COMPONENTS else 0 for size in shown.shape[: shown.ndim - 2 - last])
        part = ", ".join([*map(str, before), ":", ":", *(["0"] if last else [])])
        shown = shown[(*before, ..., 0)] if last else shown[before]
        title = f"{title}[{part}]"
    shown = np.atleast_1d(shown.squeeze() if shown.ndim > 2 else shown)
    label = "" if shown.ndim > 1 else "grid point" if field.dimensions == 1 else "index"
    return ArrayPanel(f"{title} {field.shape}", shown, field.unit, label=label)


def _readable(samples: Mapping[str, Array], spec: SampleSpec) -> dict[str, Array]:
    """Return samples whose padded numbers are NaN where nothing is."""
    found = dict(samples)
    for name, field in spec.items():
        mask = spec.get(field.mask)
        if mask is not None and found[name].dtype.kind in "biuf":
            flags = np.broadcast_to(present(field, mask, found[mask.name]), found[name].shape)
            found[name] = np.where(flags, found[name].astype(np.float64), np.nan)
    return found


def _mean_of_present(values: Array) -> Array:
    """Return means over the second axis of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(1)
    sums = np.where(there, values, 0.0).sum(1)
    means: Array = np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def _numbers(values: Array) -> Array:
    return np.abs(values) if values.dtype.kind == "c" else values.astype(np.float64)


def _name(name: str, values: Array) -> str:
    """Return the name of what is drawn of a field: of complex numbers their magnitude."""
    return f"|{name}|" if values.dtype.kind == "c" else name


def _text(values: Array) -> str:
    if values.size == 1:
        one = values.reshape(-1)[0]
        text = f"{one:.6g}" if values.dtype.kind in "fc" else str(one)
    else:
        text = f"{values.dtype} {values.shape}"
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def _unit(field: Field) -> str:
    return f" {field.unit}" if field.unit else ""


def _left_out(panels: list[ArrayPanel]) -> list[str]:
    rest = [panel.title for panel in panels[LARGEST:]]
    return [f"not drawn: {', '.join(rest)}"] if rest else []
