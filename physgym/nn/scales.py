"""Scales of fields, and their means: one number for a field, or one for each of its channels or components."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
from torch import nn

from physgym.errors import ConfigError
from physgym.nn.wrapped import unwrapped
from physgym.sample import Field
from physgym.spaces import Array

Scale = Literal["auto", "field", "component", "channel", "channel_last"]

RELATIVE_FLOOR = 1e-3  # smallest scale of a component relative to the scale of its field
ROUNDING = 1e-12  # spread relative to the mean that is rounding of a constant in float64

log = logging.getLogger(__name__)


class Moments(Protocol):
    """Mean and standard deviation of a field over samples; `physgym.data.Statistics` is one.

    Where they have them, `counts` (number of values of each component), `min` and `max` are used too.
    """

    @property
    def mean(self) -> Array: ...  # noqa: D102

    @property
    def std(self) -> Array: ...  # noqa: D102


@runtime_checkable
class Scaling(Protocol):
    """A network that knows where fields of a shape have their channels."""

    def scale_of(self, shape: tuple[int, ...]) -> str | None:
        """Return the scale for a field of this shape; None where it does not know."""


def choose_scale(scale: Scale | Mapping[str, Scale], name: str, shape: tuple[int, ...]) -> Scale:
    """Return the scale of a field of a shape.

    Raises:
        ConfigError: It is unknown, or the field has no channels.
    """
    kind = scale if isinstance(scale, str) else scale.get(name, "auto")
    if kind not in get_args(Scale):
        raise ConfigError(f"the scale of field {name!r} is {kind!r}, which is none of {get_args(Scale)}")
    if kind in ("channel", "channel_last") and len(shape) < 2:
        raise ConfigError(f"the scale of field {name!r} is {kind!r}, one for each channel, but it has shape {shape}")
    if kind == "auto":
        if len(shape) <= 1:
            return "component"
        return "channel" if len(shape) > 2 and shape[0] < min(shape[1:]) else "field"
    return kind


def scale_of_field(field: Field, scale: Scale | Mapping[str, Scale], network: nn.Module | None) -> Scale:
    """Return the scale of a field: as it is given, else as the field or the network says where there are channels."""
    kind = scale if isinstance(scale, str) else scale.get(field.name, "auto")
    if kind != "auto" or not field.shape:
        return kind
    if (
        network is not None
        and isinstance(inner := unwrapped(network), Scaling)
        and (own := inner.scale_of(field.shape))
    ):
        return cast(Scale, own)
    if field.dimensions is None:
        return "auto"
    if field.dimensions == len(field.shape):
        return "field"
    return "channel" if field.shape[0] <= field.shape[-1] else "channel_last"


def scale_shape(shape: tuple[int, ...], kind: Scale) -> tuple[int, ...]:
    """Return the shape of the scale of a field, which broadcasts to the field's."""
    if kind == "component":
        return shape
    if kind == "channel":
        return (shape[0], *(1,) * (len(shape) - 1))
    return shape[-1:] if kind == "channel_last" else ()


def scale_groups(shape: tuple[int, ...], kind: Scale) -> list[tuple[Any, ...]]:
    """Return the parts of a field that have a scale of their own."""
    if kind == "channel":
        return [(channel,) for channel in range(shape[0])]
    return [(..., channel) for channel in range(shape[-1])] if kind == "channel_last" else [(...,)]


def shift_and_scale(name: str, moments: Moments, kind: Scale, pointwise: bool) -> tuple[Array, Array]:
    """Return the mean, shape of the field, and what to divide by, which broadcasts to it, never zero; float64.

    Unless it is pointwise, the mean is that of all values that have one scale, in the shape of the scale.
    """
    mean, std = (np.array(value, np.float64) for value in (moments.mean, moments.std))
    counts = getattr(moments, "counts", None)
    known = np.ones(mean.shape, bool) if counts is None else np.asarray(counts) > 0
    if mean.size and not known.any():
        warnings.warn(
            f"no value of field {name!r} is finite in any sample, so it is not normalized", UserWarning, stacklevel=4
        )
        ones = np.ones(scale_shape(mean.shape, kind))
        return np.zeros_like(mean if pointwise else ones), ones
    _hint(name, moments, known)
    wholes, means = [], []
    for group in scale_groups(mean.shape, kind):
        here = known[group]
        if kind != "component" and not pointwise and here.any():
            common = mean[group][here].mean()
            std[group] = np.hypot(std[group], mean[group] - common)
            mean[group] = common
        whole, parts = _safe_scale(mean[group][here], std[group][here])
        if not here.all():  # a component that no sample has
            mean[group] = np.where(here, mean[group], mean[group][here].mean() if here.any() else 0.0)
        wholes.append(whole)
        means.append(mean[group].mean() if mean[group].size else 0.0)
        if kind == "component":
            scale = np.full(mean.shape, whole)
            scale[here] = parts
            return mean, scale
    shape = scale_shape(mean.shape, kind)
    return mean if pointwise else np.reshape(means, shape), np.reshape(wholes, shape)


def _hint(name: str, moments: Moments, known: Array) -> None:
    """Say of a field that holds zeros and ones alone that it may be a flag."""
    low, high = getattr(moments, "min", None), getattr(moments, "max", None)
    if low is None or high is None or not known.any():
        return
    low, high, mean, std = (np.asarray(value)[known] for value in (low, high, moments.mean, moments.std))
    # of numbers from 0 to 1 these alone have a variance as large as their mean allows
    if low.min() == 0 and high.max() == 1 and np.allclose(std**2, mean * (1 - mean), rtol=0, atol=1e-6):
        log.warning(
            (
                "field %r holds nothing but zeros and ones, and is normalized like any number; if it is a flag or "
                'one-hot, declare it: sample_kinds = {%r: "flag"}, or Field(..., kind="flag")'
            ),
            name,
            name,
        )


def _safe_scale(mean: Array, std: Array) -> tuple[float, Array]:
    """Return what to divide by: one number for all components, and one for each; neither is zero."""
    whole = float(np.sqrt(np.mean(np.square(std)))) if std.size else 0.0
    # samples that are all equal have a spread of zero up to rounding; dividing by it would blow up that rounding
    if whole <= ROUNDING * np.max(np.abs(mean), initial=0.0):
        return 1.0, np.ones_like(std)
    return whole, np.maximum(std, RELATIVE_FLOOR * whole)
