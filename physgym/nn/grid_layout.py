"""The layout of fields on a regular grid: how many axes it has, where the channels are, and the form of outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec

Axis = Literal["first", "last"]

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

SHAPE = "{what} has shape {got} without the batch axis; this {name} takes {want}"


@dataclass(frozen=True)
class GridLayout:
    """The layout of a network's fields.

    Attributes:
        dimensions: Axes of the grid: 1, 2 or 3.
        nodes: Nodes per axis, for fields that list nodes: shape (n_nodes, channels) or (n_nodes,), the last axis of the
            grid running fastest; else None.
        channel_axis: Where fields have their channels: "first", (channels, *grid), or "last", (*grid, channels).
        outputs: Channels of each output, None for one without a channel axis.
        like_input: Whether a single output of one channel has an axis for it only if the first input on the grid has
            one.
    """

    dimensions: int
    nodes: tuple[int, ...] | None = None
    channel_axis: Axis = "first"
    outputs: tuple[int | None, ...] = (None,)
    like_input: bool = False

    def scale_of(self, shape: tuple[int, ...]) -> str | None:
        """Return the scale of a normalization that suits a field: one for each channel; None for any."""
        if self.nodes is not None or len(shape) not in (self.dimensions, self.dimensions + 1):
            return None
        if len(shape) == self.dimensions:
            return "field"
        return "channel" if self.channel_axis == "first" else "channel_last"

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the grid of a field."""
        if len(shape) == self.dimensions:
            return shape
        return shape[1:] if self.channel_axis == "first" else shape[:-1]

    def count(self, shape: tuple[int, ...]) -> int | None:
        """Return the channels of a field; None for one without a channel axis."""
        bare = self.dimensions if self.nodes is None else 1
        if len(shape) <= bare:
            return None
        return shape[0 if self.nodes is None and self.channel_axis == "first" else -1]

    def with_channels(self, value: Tensor, name: str) -> Tensor:
        """Return a field as (batch, channels, *grid).

        Raises:
            ConfigError: It has another shape; the text names the network, `name`.
        """
        want = f"{self.dimensions} axes, or one more for channels"
        if self.nodes is not None:
            if value.ndim in (2, 3) and value.shape[1] == math.prod(self.nodes):
                channels = value.shape[2] if value.ndim == 3 else 1
                return value.reshape(value.shape[0], *self.nodes, channels).movedim(-1, 1)
            want = f"({math.prod(self.nodes)},) or ({math.prod(self.nodes)}, channels)"
        elif value.ndim == self.dimensions + 1:
            return value.unsqueeze(1)
        elif value.ndim == self.dimensions + 2:
            return value if self.channel_axis == "first" else value.movedim(-1, 1)
        raise ConfigError(SHAPE.format(what="a field", got=tuple(value.shape[1:]), name=name, want=want))

    def fields(self, y: Tensor, first: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs in the form of fields.

        Args:
            y: All outputs on the grid, shape (batch, out_channels, *grid).
            first: The first input on the grid, as the network was given it.

        Returns:
            One output, or a tuple of several.
        """
        if len(self.outputs) == 1:
            bare = first.ndim == (2 if self.nodes else self.dimensions + 1) if self.like_input else False
            return self._as_field(y, bare=bare or self.outputs[0] is None)
        split = torch.split(y, [count or 1 for count in self.outputs], 1)
        return tuple(self._as_field(part, bare=count is None) for part, count in zip(split, self.outputs, strict=True))

    def _as_field(self, y: Tensor, *, bare: bool) -> Tensor:
        """Return an output as a field: with its channels where fields have them, or without a channel axis."""
        if bare:
            y = y.squeeze(1)
            return y.flatten(1) if self.nodes is not None else y
        if self.nodes is not None:
            return y.flatten(2).movedim(1, -1)  # (batch, n_nodes, channels)
        return y if self.channel_axis == "first" else y.movedim(1, -1)


def read_layout(
    name: str,
    fields: Mapping[str, Field],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dimensions: int | None,
    channel_axis: Axis | None,
) -> tuple[int, Axis]:
    """Return the number of axes of the grid, and which axis of fields counts the channels.

    Raises:
        ConfigError: The fields can be read in several ways, or do not lie on one grid.
    """
    on_grid = {key: field for key, field in fields.items() if field.shape}
    shown = {key: field.shape for key, field in on_grid.items()}
    for key, field in on_grid.items():
        if field.dimensions is not None and dimensions not in (None, field.dimensions):
            raise ConfigError(
                f"field {key!r} is declared with dimensions={field.dimensions}, the {name} is made with {dimensions}"
            )
        dimensions = field.dimensions if field.dimensions is not None else dimensions
    axes: tuple[Axis, ...] = get_args(Axis) if channel_axis is None else (channel_axis,)
    found: dict[tuple[int, Axis], tuple[int, ...]] = {}
    for count in CONV if dimensions is None else (dimensions,):
        grids = {axis: _common_grid(shown.values(), count, axis) for axis in axes}
        found |= {(count, axis): grid for axis, grid in grids.items() if grid is not None}
    if not found:
        count = next(len(fields[output].shape) for output in outputs) if dimensions is None else dimensions
        if all(len(shape) in (count, count + 1) for shape in shown.values()):
            raise ConfigError(
                f"the fields {shown} do not lie on one grid of {count} axes; a {name} needs all of them on the same one"
            )
        return count, axes[0]  # the check of each shape gives the error

    def readings(chosen: Iterable[tuple[int, Axis]]) -> str:
        texts = []
        for count, axis in chosen:
            fed, given = (
                sum(shape[0 if axis == "first" else -1] if len(shape) > count else 1 for shape in shapes)
                for shapes in ([fields[key].shape for key in names] for names in (inputs, outputs))
            )
            channeled = any(len(shape) > count for shape in shown.values())
            where = f" and channel_axis={axis!r}" if channeled and axis == "last" else ""
            texts.append(f"dimensions={count}{where}: {reading('', found[count, axis], fed, given)}")
        return "; ".join(dict.fromkeys(texts))

    counts = sorted({count for count, _ in found})
    if len(counts) > 1:
        ways = [key for key in found if key[1] == "first" or not _same(shown.values(), *key)]
        text = (
            f"the fields {shown} can be read in {len(ways)} ways by a {name}: {readings(ways)}. Say which: "
            "dimensions=, the number of axes of the grid (in a configuration network: {arguments: {dimensions: "
            f"2}}}}), or declare it with the fields (sample_dimensions = {{{next(iter(shown))!r}: 2}})"
        )
        raise ConfigError(text)
    ways = [key for key in found if key[0] == counts[0]]
    # two channels of 48 x 48 points are plain; as many channels as points somewhere, or more, are not
    if len(ways) > 1 and any(len(shape) > counts[0] and shape[0] >= min(shape[1:]) for shape in shown.values()):
        raise ConfigError(
            f"the fields {shown} can be read in 2 ways by a {name}: {readings(ways)}. Say which axis counts the "
            'channels: channel_axis="first" or "last" (in a configuration network: {arguments: {channel_axis: '
            "first}})"
        )
    return ways[0]


def _common_grid(shapes: Iterable[tuple[int, ...]], dimensions: int, axis: Axis) -> tuple[int, ...] | None:
    """Return the grid of all fields in a reading of their shapes; None if they have none in common."""
    grids = set()
    for shape in shapes:
        if len(shape) == dimensions:
            grids.add(shape)
        elif len(shape) == dimensions + 1:
            grids.add(shape[1:] if axis == "first" else shape[:-1])
        else:
            return None
    return grids.pop() if len(grids) == 1 else None


def _same(shapes: Iterable[tuple[int, ...]], dimensions: int, axis: Axis) -> bool:
    """Return whether no field has channels, so that their place does not matter."""
    return all(len(shape) == dimensions for shape in shapes)


def reading(name: str, grid: Sequence[int], fed: int, given: int) -> str:
    """Describe a grid and its channels in and out; a name comes first unless it is empty."""
    many = "channel" if fed == 1 else "channels"
    text = f"{len(grid)}-D grid {' x '.join(map(str, grid))}, {fed} {many} in, {given} out"
    return f"{name}: {text}" if name else text


def like_first_input(spec: SampleSpec, inputs: Sequence[str], given: int | None, bare: int) -> bool:
    """Return whether a single output has a channel axis exactly if the first input on the grid has one."""
    first = next((spec[name].shape for name in inputs if spec[name].shape), None)
    return (given or 1) > 1 or (first is not None and (len(first) == bare) == (given is None))
