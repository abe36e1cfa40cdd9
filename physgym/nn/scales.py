"""Scales of fields: one number for a field, or one for each of its channels or components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from torch import nn

from physgym.errors import ConfigError
from physgym.nn.wrapped import unwrapped
from physgym.sample import Field

Scale = Literal["auto", "field", "component", "channel", "channel_last"]

RELATIVE_FLOOR = 1e-3  # smallest scale of a component relative to the scale of its field


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
