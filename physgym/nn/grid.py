"""`GridNetwork`: how networks on regular grids take and return fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.predictor import field_names
from physgym.sample import SampleSpec

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

SHAPE = "a field has shape {got} without the batch axis; this {name} takes {want}"
SCALARS = "none of the fields of this {name} has a grid; a number alone needs an MLP"
CHANNELS = "the fields have {got} channels together; this {name} was made for in_channels={want}"
SEVERAL = "a {name} predicts one field, not {outputs}; choose one with `outputs`"


class GridNetwork(nn.Module):
    """Stacks the inputs as channels on the grid, calls `compute`, and gives the output the form of the inputs.

    Subclasses override `compute`, and state their own arguments in `options`.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output.
        nodes: Nodes per axis of the grid, for fields that list nodes: shape (n_nodes, channels) or (n_nodes,), the
            last axis of the grid running fastest. The output has shape (n_nodes, out_channels).
        options: Further arguments of the subclass's constructor, JSON data, for `config`.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self, dimensions: int, in_channels: int, out_channels: int, nodes: Sequence[int] | None, **options: Any
    ) -> None:
        super().__init__()
        if dimensions not in CONV:
            raise ConfigError(f"dimensions must be 1, 2 or 3, not {dimensions}")
        if min(in_channels, out_channels) < 1:
            raise ConfigError(f"in_channels and out_channels must be positive, not {in_channels} and {out_channels}")
        if nodes is not None and len(nodes) != dimensions:
            raise ConfigError(f"nodes must give {dimensions} numbers, not {list(nodes)}")
        self.dimensions, self.in_channels, self.out_channels = dimensions, in_channels, out_channels
        self.nodes = None if nodes is None else tuple(nodes)
        self._options = options

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return {
            "dimensions": self.dimensions,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "nodes": None if self.nodes is None else list(self.nodes),
            **self._options,
        }

    @classmethod
    def from_spec(
        cls,
        spec: SampleSpec,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        dimensions: int | None = None,
        nodes: Sequence[int] | None = None,
        **options: Any,
    ) -> Self:
        """A network between the fields of samples.

        Args:
            spec: The samples' fields.
            inputs: Names of the fields that feed it, by default those of role "input".
            outputs: Name of the field that it predicts, by default that of role "target".
            dimensions: Of the grid; by default every axis of the predicted field is one of the grid.
            nodes: Nodes per axis, where the fields list nodes.
            options: The other arguments of the constructor.

        Raises:
            ConfigError: There is no field to feed, not exactly one to predict, or one without a grid.
        """
        inputs, outputs = field_names(spec, inputs, outputs)
        if len(outputs) != 1:
            raise ConfigError(SEVERAL.format(name=cls.__name__, outputs=list(outputs)))
        target = spec[outputs[0]].shape
        if dimensions is None:
            dimensions = len(target) if nodes is None else len(nodes)
        bare = dimensions if nodes is None else 1  # axes of a field without channels

        def channels(shape: tuple[int, ...]) -> int:
            if len(shape) not in (0, bare, bare + 1):
                want = f"{bare} axes, or one more for channels"
                raise ConfigError(SHAPE.format(got=shape, name=cls.__name__, want=want))
            return 1 if len(shape) in (0, bare) else shape[0 if nodes is None else -1]

        if not target:
            raise ConfigError(SCALARS.format(name=cls.__name__))
        fed = sum(channels(spec[name].shape) for name in inputs)
        return cls(dimensions, fed, channels(target), nodes=nodes, **options)

    def compute(self, x: Tensor) -> Tensor:
        """The network on the grid.

        Args:
            x: Shape (batch, in_channels, *grid), in the dtype of the weights.

        Returns:
            Shape (batch, out_channels, *grid).
        """
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            inputs: Fields on the grid, shape (batch, *grid) or (batch, channels, *grid), stacked as channels; with
                `nodes` shape (batch, n_nodes) or (batch, n_nodes, channels). A number for each sample, shape (batch,),
                becomes a channel that is constant over the grid. Any real dtype.

        Returns:
            Shape (batch, out_channels, *grid) in the dtype of the weights, with `nodes` (batch, n_nodes, out_channels);
            a single channel has no axis if the first input on the grid has none.

        Raises:
            ConfigError: An input has not the shape of the grid, or the channels are too few or too many.
        """
        first = next((value for value in inputs if value.ndim > 1), None)
        if first is None:
            raise ConfigError(SCALARS.format(name=type(self).__name__))
        grid, dtype = self._with_channels(first).shape[2:], next(self.parameters()).dtype
        parts = [
            self._with_channels(value)
            if value.ndim > 1
            else value.view(-1, *(1,) * (1 + len(grid))).expand(-1, 1, *grid)
            for value in inputs
        ]
        x = torch.cat([value.to(dtype) for value in parts], 1) if len(parts) > 1 else parts[0].to(dtype)
        if x.shape[1] != self.in_channels:
            raise ConfigError(CHANNELS.format(got=x.shape[1], name=type(self).__name__, want=self.in_channels))
        y = self.compute(x)  # (batch, out_channels, *grid)
        bare = self.out_channels == 1 and first.ndim == (2 if self.nodes else self.dimensions + 1)
        if self.nodes is not None:
            y = y.flatten(2).movedim(1, -1)  # (batch, n_nodes, out_channels)
            return y.squeeze(-1) if bare else y
        return y.squeeze(1) if bare else y

    def _with_channels(self, value: Tensor) -> Tensor:
        """A field as (batch, channels, *grid)."""
        want = f"{self.dimensions} axes, or one more for channels"
        if self.nodes is not None:
            if value.ndim in (2, 3) and value.shape[1] == math.prod(self.nodes):
                return value.reshape(len(value), *self.nodes, -1).movedim(-1, 1)
            want = f"({math.prod(self.nodes)},) or ({math.prod(self.nodes)}, channels)"
        elif value.ndim == self.dimensions + 1:
            return value.unsqueeze(1)
        elif value.ndim == self.dimensions + 2:
            return value
        raise ConfigError(SHAPE.format(got=tuple(value.shape[1:]), name=type(self).__name__, want=want))
