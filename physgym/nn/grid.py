"""`GridNetwork`: the base of networks on regular grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from physgym.checks import is_integer
from physgym.errors import ConfigError
from physgym.nn.grid_layout import CONV, SHAPE, Axis, GridLayout, like_first_input, read_layout, reading
from physgym.nn.predictor import field_names
from physgym.nn.residual import Residual, add_channels, residual_channels
from physgym.sample import SampleSpec
from physgym.step_fields import fields_for

SCALARS = "none of the fields of this {name} has a grid; a number alone needs an MLP"


class GridNetwork(nn.Module):
    """Stack the inputs as channels on the grid, call `compute`, and give the output the form of the inputs.

    Subclasses override `compute`, and state their own arguments in `options`.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output; or a list with those of each of several outputs. None stands for an output
            without a channel axis; a single output of one channel has none if the first input on the grid has none.
        nodes: Nodes per axis of the grid, for fields that list nodes: shape (n_nodes, channels) or (n_nodes,), the
            last axis of the grid running fastest. The output has shape (n_nodes, out_channels).
        channel_axis: Where fields have their channels: "first", (channels, *grid), or "last", (*grid, channels).
        residual: What is added to the output: nothing, the input channel given for each output channel (None adds
            nothing to it), or True: the input field that corresponds to each output, see `from_spec`.
        inputs: Names of the input fields, in the order of the arguments; None where there are no names.
        options: Further arguments of the subclass's constructor, JSON data, for `config`.

    Attributes:
        layout: The layout of its fields.
        in_channels: Channels of all inputs together.
        input_fields: Names of the input fields; None where there are no names.
        residual: The input channel added to each output channel, or True while that is open, or False.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int | Sequence[int | None] | None,
        nodes: Sequence[int] | None,
        *,
        channel_axis: Axis = "first",
        residual: bool | Sequence[int | None] = False,
        inputs: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        several = list(out_channels) if isinstance(out_channels, Sequence) else [out_channels]
        if not is_integer(dimensions) or dimensions not in CONV:
            raise ConfigError(f"dimensions must be 1, 2 or 3, not {dimensions!r}")
        counts = [in_channels, *(count for count in several if count is not None)]
        if not several or not all(is_integer(count, 1) for count in counts):
            raise ConfigError(
                f"in_channels and out_channels must be positive, not {in_channels!r} and {out_channels!r}"
            )
        if nodes is not None and len(nodes) != dimensions:
            raise ConfigError(f"nodes must give {dimensions} numbers, not {list(nodes)}")
        if channel_axis not in get_args(Axis):
            raise ConfigError(f"channel_axis is one of {get_args(Axis)}, not {channel_axis!r}")
        self.layout = GridLayout(
            dimensions,
            None if nodes is None else tuple(nodes),
            channel_axis,
            tuple(several),
            like_input=out_channels == 1 and is_integer(out_channels),
        )
        self.in_channels = in_channels
        self.input_fields = None if inputs is None else tuple(inputs)
        self.residual: bool | tuple[int | None, ...] = self._checked_residual(residual)
        self._options = options

    @property
    def dimensions(self) -> int:
        """Return the axes of the grid."""
        return self.layout.dimensions

    @property
    def nodes(self) -> tuple[int, ...] | None:
        """Return the nodes per axis, None for fields that have the axes of the grid."""
        return self.layout.nodes

    @property
    def channel_axis(self) -> Axis:
        """Return the axis of the channels in a field."""
        return self.layout.channel_axis

    @property
    def out_channels(self) -> int:
        """Return the channels of all outputs together."""
        return sum(count or 1 for count in self.layout.outputs)

    def _checked_residual(self, residual: bool | Sequence[int | None]) -> bool | tuple[int | None, ...]:
        if isinstance(residual, bool):
            if residual and self.out_channels > self.in_channels:
                raise ConfigError(
                    f"residual adds input channels to {self.out_channels} of the output, but there are only "
                    f"{self.in_channels}"
                )
            return residual
        channels = tuple(residual)
        if len(channels) != self.out_channels or any(c is not None and not 0 <= c < self.in_channels for c in channels):
            raise ConfigError(
                f"residual lists for each of {self.out_channels} output channels the input channel that is added, "
                f"from 0 to below {self.in_channels}, or None; not {residual}"
            )
        return channels

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        several: list[Any] = list(self.layout.outputs)
        alone = len(several) == 1 and (self.layout.like_input or several[0] not in (None, 1))
        return {
            "dimensions": self.dimensions,
            "in_channels": self.in_channels,
            "out_channels": several[0] if alone else several,
            "nodes": None if self.nodes is None else list(self.nodes),
            **({} if self.channel_axis == "first" else {"channel_axis": self.channel_axis}),
            **({} if self.input_fields is None else {"inputs": list(self.input_fields)}),
            **(
                {"residual": list(self.residual) if isinstance(self.residual, tuple) else True} if self.residual else {}
            ),
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
        channel_axis: Axis | None = None,
        nodes: Sequence[int] | None = None,
        residual: Residual = False,
        **options: Any,
    ) -> Self:
        """Make a network between the fields of samples.

        Args:
            spec: The samples' fields.
            inputs: Names of the fields that feed it, by default those of role "input".
            outputs: Names of the fields that it predicts, by default those of role "target".
            dimensions: Of the grid; by default as the fields declare it, or as their shapes say it where they can be
                read in one way only.
            channel_axis: Where fields have their channels, "first" or "last"; by default where only one of them puts
                all fields on one grid, else first where these channels are fewer than the points along any axis.
            nodes: Nodes per axis, where the fields list nodes.
            residual: Which input field is added to the output, so that the network learns a change: its name, or names
                by output field; True takes the input of the output's name, or the only one of its shape.
            options: The other arguments of the constructor.

        Raises:
            ConfigError: There is no field to feed or to predict, the fields do not lie on one grid or can be read in
                several ways, or it is not clear what a residual adds to.
        """
        spec = fields_for(spec, outputs)
        inputs, outputs = field_names(spec, inputs, outputs)
        fields = {name: spec[name] for name in (*inputs, *outputs)}
        if any(not spec[name].shape for name in outputs):
            raise ConfigError(SCALARS.format(name=cls.__name__))
        if nodes is not None:
            dimensions, channel_axis = dimensions or len(nodes), "last"
        else:
            dimensions, channel_axis = read_layout(cls.__name__, fields, inputs, outputs, dimensions, channel_axis)
        bare = dimensions if nodes is None else 1  # axes of a field without channels
        at = 0 if nodes is None and channel_axis == "first" else -1

        def channels(name: str) -> int | None:
            shape = spec[name].shape
            if len(shape) not in (0, bare, bare + 1):
                want = f"{bare} axes, or one more for channels"
                if name in inputs and len(shape) == 1:
                    want += (
                        ", and numbers, which it spreads over the grid: declare each in sample_space with shape (), or "
                        "leave the field out (inputs=)"
                    )
                raise ConfigError(SHAPE.format(what=f"field {name!r}", got=shape, name=cls.__name__, want=want))
            return None if len(shape) in (0, bare) else shape[at]

        fed = {name: channels(name) or 1 for name in inputs}
        given = [channels(name) for name in outputs]
        if nodes is None and channel_axis != "first":
            options["channel_axis"] = channel_axis
        if residual:
            options["residual"] = residual_channels(residual, spec, inputs, outputs, fed, given)
        return cls(
            dimensions,
            sum(fed.values()),
            given[0] or 1 if len(given) == 1 and like_first_input(spec, inputs, given[0], bare) else given,
            nodes=nodes,
            inputs=inputs,
            **options,
        )

    def resolve(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Decide by the fields to which of them a residual adds.

        Raises:
            ConfigError: It is not clear, or the network was made for other fields.
        """
        if not self.residual:
            return
        if self.input_fields is not None and set(self.input_fields) != set(inputs):
            raise ConfigError(
                f"this {type(self).__name__} was made for the input fields {self.input_fields} and adds one of them to "
                f"its output; its inputs are {list(inputs)}. Give both the same `inputs`, or make it from these"
            )
        if self.residual is True:
            fed = {name: self.layout.count(spec[name].shape) or 1 for name in self.input_fields or inputs}
            given = [self.layout.count(spec[name].shape) for name in outputs]
            if sum(fed.values()) == self.in_channels and sum(count or 1 for count in given) == self.out_channels:
                self.residual = tuple(residual_channels(True, spec, tuple(fed), outputs, fed, given))

    def add_first_channels(self, *, anyhow: bool = False) -> None:
        """Add the first input channels, as a residual did before there was a choice.

        Args:
            anyhow: Whether to do so where another choice was made; else only where it is still open.
        """
        if self.residual is True or (anyhow and self.out_channels <= self.in_channels):
            self.residual = tuple(range(self.out_channels))

    def summary(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """Describe the network for these fields, for people: grid, channels, residual."""
        first = next((s for s in (spec[name].shape for name in (*inputs, *outputs)) if s), ())
        grid = self.nodes or self.layout.grid(first)
        text = f"{reading(type(self).__name__, grid, self.in_channels, self.out_channels)}"
        if self.nodes is not None:
            text += ", nodes listed"
        elif self.channel_axis == "last":
            text += ", channels last"
        if isinstance(self.residual, tuple):
            text += f"; adds {self._added(spec, self.input_fields or tuple(inputs), outputs)}"
        return text

    def _added(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """Describe a residual, by the names of fields where it adds whole ones."""
        assert isinstance(self.residual, tuple)
        parts, at = [], 0
        starts, start = {}, 0
        for name in inputs:
            starts[start] = name
            start += self.layout.count(spec[name].shape) or 1
        for name in outputs:
            size = self.layout.count(spec[name].shape) or 1
            chosen, at = self.residual[at : at + size], at + size
            first = chosen[0] if chosen else None
            if first is not None and first in starts and chosen == tuple(range(first, first + size)):
                parts.append(f"{starts[first]} to {name}")
            elif any(channel is not None for channel in chosen):
                parts.append(f"the input channels {list(chosen)} to {name}")
        return ", ".join(parts)

    def scale_of(self, shape: tuple[int, ...]) -> str | None:
        """Return the scale of a normalization that suits a field: one for each channel; None for any."""
        return self.layout.scale_of(shape)

    def compute(self, x: Tensor) -> Tensor:
        """Evaluate the network on the grid.

        Args:
            x: Shape (batch, in_channels, *grid), in the dtype of the weights.

        Returns:
            Shape (batch, out_channels, *grid).
        """
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Evaluate the network.

        Args:
            inputs: Fields on the grid, shape (batch, *grid) or (batch, channels, *grid), stacked as channels; with
                `nodes` shape (batch, n_nodes) or (batch, n_nodes, channels). A number for each sample, shape (batch,),
                becomes a channel that is constant over the grid. Any real dtype.

        Returns:
            Shape (batch, out_channels, *grid) in the dtype of the weights, with `nodes` (batch, n_nodes, out_channels),
            channels last where the inputs have them there; a single channel has no axis if the first input on the grid
            has none. A tuple if there are several outputs.

        Raises:
            ConfigError: An input has not the shape of the grid, or the channels are too few or too many.
        """
        first, name = next((value for value in inputs if value.ndim > 1), None), type(self).__name__
        if first is None:
            raise ConfigError(SCALARS.format(name=name))
        grid, dtype = self.layout.with_channels(first, name).shape[2:], next(self.parameters()).dtype
        parts = [
            self.layout.with_channels(value, name)
            if value.ndim > 1
            else value.reshape(value.shape[0], *(1,) * (1 + len(grid))).expand(value.shape[0], 1, *grid)
            for value in inputs
        ]
        x = torch.cat([value.to(dtype) for value in parts], 1) if len(parts) > 1 else parts[0].to(dtype)
        if x.shape[1] != self.in_channels:
            raise ConfigError(
                f"the fields have {x.shape[1]} channels together; this {name} was made for "
                f"in_channels={self.in_channels}"
            )
        y = self.compute(x)  # (batch, out_channels, *grid)
        if self.residual is True:
            if len(inputs) > 1 and self.in_channels != self.out_channels:
                raise ConfigError(
                    f"residual=True does not say which of the {len(inputs)} inputs is added: make the network "
                    "from_spec, or list the channels, residual=[...]"
                )
            y = y + x[:, : self.out_channels]
        elif self.residual:
            y = add_channels(self.residual, y, x)
        return self.layout.fields(y, first)
