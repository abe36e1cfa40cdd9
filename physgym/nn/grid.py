"""`GridNetwork`: how networks on regular grids take and return fields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.predictor import field_names
from physgym.sample import Field, SampleSpec

Axis = Literal["first", "last"]
Residual = bool | str | Mapping[str, str] | Sequence[int | None]

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

SHAPE = "a field has shape {got} without the batch axis; this {name} takes {want}"
SCALARS = "none of the fields of this {name} has a grid; a number alone needs an MLP"
CHANNELS = "the fields have {got} channels together; this {name} was made for in_channels={want}"
READINGS = (
    "the fields {fields} can be read in {count} ways by a {name}: {readings}. Say which: dimensions=, the number of "
    "axes of the grid (in a configuration network: {{arguments: {{dimensions: 2}}}}), or declare it with the fields "
    "(sample_dimensions = {{{first!r}: 2}})"
)
CHANNEL_AXIS = (
    "the fields {fields} can be read in 2 ways by a {name}: {readings}. Say which axis counts the channels: "
    'channel_axis="first" or "last" (in a configuration network: {{arguments: {{channel_axis: first}}}})'
)
GRIDS = "the fields {fields} do not lie on one grid of {dimensions} axes; a {name} needs all of them on the same one"
DECLARED = "field {field!r} is declared with dimensions={got}, the {name} is made with {want}"
NO_COUNTERPART = (
    "residual=True: which input field does {output!r} of shape {shape} change? {found}; say so: residual={example}"
)
NO_SUCH = "residual names {name!r}, which is none of the {role} fields {known}"
UNLIKE = "residual adds field {name!r} of {got} channels to {output!r} of {want}; both must have as many"
RESIDUAL = (
    "residual lists for each of {out} output channels the input channel that is added, from 0 to below {fed}, or None; "
    "not {got}"
)
UNSETTLED = (
    "residual=True does not say which of the {count} inputs is added: make the network from_spec, or list the "
    "channels, residual=[...]"
)
MADE_FOR = (
    "this {name} was made for the input fields {made} and adds one of them to its output; its inputs are {fields}. "
    "Give both the same `inputs`, or make it from these"
)


class GridNetwork(nn.Module):
    """Stacks the inputs as channels on the grid, calls `compute`, and gives the output the form of the inputs.

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
        input_fields: Names of the input fields, see `inputs`.

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
        if dimensions not in CONV:
            raise ConfigError(f"dimensions must be 1, 2 or 3, not {dimensions}")
        if in_channels < 1 or not several or any(count is not None and count < 1 for count in several):
            raise ConfigError(f"in_channels and out_channels must be positive, not {in_channels} and {out_channels}")
        if nodes is not None and len(nodes) != dimensions:
            raise ConfigError(f"nodes must give {dimensions} numbers, not {list(nodes)}")
        if channel_axis not in get_args(Axis):
            raise ConfigError(f"channel_axis is one of {get_args(Axis)}, not {channel_axis!r}")
        self.dimensions, self.in_channels = dimensions, in_channels
        self.out_channels = sum(count or 1 for count in several)
        self.nodes = None if nodes is None else tuple(nodes)
        self.channel_axis = channel_axis
        self.input_fields = None if inputs is None else tuple(inputs)
        self.residual: bool | tuple[int | None, ...] = self._checked_residual(residual)
        self._outputs = several
        self._bare_by_input = out_channels == 1 and isinstance(out_channels, int)  # as its first input has it
        self._options = options

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
            raise ConfigError(RESIDUAL.format(out=self.out_channels, fed=self.in_channels, got=residual))
        return channels

    @property
    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON data."""
        several: list[Any] = self._outputs
        alone = len(several) == 1 and (self._bare_by_input or several[0] not in (None, 1))
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
        """Return a network between the fields of samples.

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
        inputs, outputs = field_names(spec, inputs, outputs)
        fields = {name: spec[name] for name in (*inputs, *outputs)}
        if any(not spec[name].shape for name in outputs):
            raise ConfigError(SCALARS.format(name=cls.__name__))
        if nodes is not None:
            dimensions, channel_axis = dimensions or len(nodes), "last"
        else:
            dimensions, channel_axis = _read(cls.__name__, fields, inputs, outputs, dimensions, channel_axis)
        bare = dimensions if nodes is None else 1  # axes of a field without channels
        at = 0 if nodes is None and channel_axis == "first" else -1

        def channels(shape: tuple[int, ...]) -> int | None:
            if len(shape) not in (0, bare, bare + 1):
                want = f"{bare} axes, or one more for channels"
                raise ConfigError(SHAPE.format(got=shape, name=cls.__name__, want=want))
            return None if len(shape) in (0, bare) else shape[at]

        fed = {name: channels(spec[name].shape) or 1 for name in inputs}
        given = [channels(spec[name].shape) for name in outputs]
        if nodes is None and channel_axis != "first":
            options["channel_axis"] = channel_axis
        if residual:
            options["residual"] = _residual(residual, spec, inputs, outputs, fed, given)
        return cls(
            dimensions,
            sum(fed.values()),
            given[0] or 1 if len(given) == 1 and _as_first(spec, inputs, given[0], bare) else given,
            nodes=nodes,
            inputs=inputs,
            **options,
        )

    def settle(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Take over what the fields decide: to which of them a residual adds.

        Raises:
            ConfigError: It is not clear, or the network was made for other fields.
        """
        if not self.residual:
            return
        if self.input_fields is not None and set(self.input_fields) != set(inputs):
            raise ConfigError(MADE_FOR.format(name=type(self).__name__, made=self.input_fields, fields=list(inputs)))
        if self.residual is True:
            fed = {name: self._count(spec[name].shape) or 1 for name in self.input_fields or inputs}
            given = [self._count(spec[name].shape) for name in outputs]
            if sum(fed.values()) == self.in_channels and sum(count or 1 for count in given) == self.out_channels:
                self.residual = tuple(_residual(True, spec, tuple(fed), outputs, fed, given))

    def add_first_channels(self, *, anyhow: bool = False) -> None:
        """Settle a residual as it was before there was a choice: it adds the first input channels.

        Args:
            anyhow: Whether to do so where another choice was made; else only what is open is settled.
        """
        if self.residual is True or (anyhow and self.out_channels <= self.in_channels):
            self.residual = tuple(range(self.out_channels))

    def summary(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """Say for people what it is for these fields: grid and channels, and what is added to what."""
        first = next((s for s in (spec[name].shape for name in (*inputs, *outputs)) if s), ())
        grid = self.nodes or self._grid(first)
        text = f"{_reading(type(self).__name__, grid, self.in_channels, self.out_channels)}"
        if self.nodes is not None:
            text += ", nodes listed"
        elif self.channel_axis == "last":
            text += ", channels last"
        if isinstance(self.residual, tuple):
            text += f"; adds {self._added(spec, self.input_fields or tuple(inputs), outputs)}"
        return text

    def _added(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> str:
        """Say what a residual adds to what, by the names of fields where it adds whole ones."""
        assert isinstance(self.residual, tuple)
        parts, at = [], 0
        starts, start = {}, 0
        for name in inputs:
            starts[start] = name
            start += self._count(spec[name].shape) or 1
        for name in outputs:
            size = self._count(spec[name].shape) or 1
            chosen, at = self.residual[at : at + size], at + size
            first = chosen[0] if chosen else None
            if first is not None and first in starts and chosen == tuple(range(first, first + size)):
                parts.append(f"{starts[first]} to {name}")
            elif any(channel is not None for channel in chosen):
                parts.append(f"the input channels {list(chosen)} to {name}")
        return ", ".join(parts)

    def scale_of(self, shape: tuple[int, ...]) -> str | None:
        """Return the scale of a normalization that suits a field: one for each channel; None for no opinion."""
        if self.nodes is not None or len(shape) not in (self.dimensions, self.dimensions + 1):
            return None
        if len(shape) == self.dimensions:
            return "field"
        return "channel" if self.channel_axis == "first" else "channel_last"

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) == self.dimensions:
            return shape
        return shape[1:] if self.channel_axis == "first" else shape[:-1]

    def _count(self, shape: tuple[int, ...]) -> int | None:
        """Return the channels of a field; None for one without a channel axis."""
        bare = self.dimensions if self.nodes is None else 1
        if len(shape) <= bare:
            return None
        return shape[0 if self.nodes is None and self.channel_axis == "first" else -1]

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
        first = next((value for value in inputs if value.ndim > 1), None)
        if first is None:
            raise ConfigError(SCALARS.format(name=type(self).__name__))
        grid, dtype = self._with_channels(first).shape[2:], next(self.parameters()).dtype
        parts = [
            self._with_channels(value)
            if value.ndim > 1
            else value.reshape(value.shape[0], *(1,) * (1 + len(grid))).expand(value.shape[0], 1, *grid)
            for value in inputs
        ]
        x = torch.cat([value.to(dtype) for value in parts], 1) if len(parts) > 1 else parts[0].to(dtype)
        if x.shape[1] != self.in_channels:
            raise ConfigError(CHANNELS.format(got=x.shape[1], name=type(self).__name__, want=self.in_channels))
        y = self._with_residual(self.compute(x), x, len(parts))  # (batch, out_channels, *grid)
        if len(self._outputs) == 1:
            bare = first.ndim == (2 if self.nodes else self.dimensions + 1) if self._bare_by_input else False
            return self._as_field(y, bare=bare or self._outputs[0] is None)
        split = torch.split(y, [count or 1 for count in self._outputs], 1)
        return tuple(self._as_field(part, bare=count is None) for part, count in zip(split, self._outputs, strict=True))

    def _with_residual(self, y: Tensor, x: Tensor, inputs: int) -> Tensor:
        """Return the output with the input channels that are added to it."""
        if self.residual is True:
            if inputs > 1 and self.in_channels != self.out_channels:
                raise ConfigError(UNSETTLED.format(count=inputs))
            return y + x[:, : self.out_channels]
        if not isinstance(self.residual, tuple):
            return y
        start = self.residual[0]
        if start is not None and self.residual == tuple(range(start, start + len(self.residual))):
            return y + x[:, start : start + len(self.residual)]
        pieces = [
            y[:, at : at + 1] if c is None else y[:, at : at + 1] + x[:, c : c + 1]
            for at, c in enumerate(self.residual)
        ]
        return torch.cat(pieces, 1)

    def _as_field(self, y: Tensor, *, bare: bool) -> Tensor:
        """Return an output in the form of a field: with its channels where fields have them, or without."""
        if bare:
            y = y.squeeze(1)
            return y.flatten(1) if self.nodes is not None else y
        if self.nodes is not None:
            return y.flatten(2).movedim(1, -1)  # (batch, n_nodes, channels)
        return y if self.channel_axis == "first" else y.movedim(1, -1)

    def _with_channels(self, value: Tensor) -> Tensor:
        """Return a field as (batch, channels, *grid)."""
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
        raise ConfigError(SHAPE.format(got=tuple(value.shape[1:]), name=type(self).__name__, want=want))


# --- how the shapes of fields are read


def _read(
    name: str,
    fields: Mapping[str, Field],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dimensions: int | None,
    channel_axis: Axis | None,
) -> tuple[int, Axis]:
    """Return the number of axes of the grid, and where the channels are.

    Raises:
        ConfigError: The fields can be read in several ways, or do not lie on one grid.
    """
    on_grid = {key: field for key, field in fields.items() if field.shape}
    shown = {key: field.shape for key, field in on_grid.items()}
    for key, field in on_grid.items():
        if field.dimensions is not None and dimensions not in (None, field.dimensions):
            raise ConfigError(DECLARED.format(field=key, got=field.dimensions, name=name, want=dimensions))
        dimensions = field.dimensions if field.dimensions is not None else dimensions
    axes: tuple[Axis, ...] = get_args(Axis) if channel_axis is None else (channel_axis,)
    found: dict[tuple[int, Axis], tuple[int, ...]] = {}
    for count in CONV if dimensions is None else (dimensions,):
        grids = {axis: _common_grid(shown.values(), count, axis) for axis in axes}
        found |= {(count, axis): grid for axis, grid in grids.items() if grid is not None}
    if not found:
        count = next(len(fields[output].shape) for output in outputs) if dimensions is None else dimensions
        if all(len(shape) in (count, count + 1) for shape in shown.values()):
            raise ConfigError(GRIDS.format(fields=shown, dimensions=count, name=name))
        return count, axes[0]  # what does not fit is named by its shape

    def readings(chosen: Iterable[tuple[int, Axis]]) -> str:
        texts = []
        for count, axis in chosen:
            fed, given = (
                sum(shape[0 if axis == "first" else -1] if len(shape) > count else 1 for shape in shapes)
                for shapes in ([fields[key].shape for key in names] for names in (inputs, outputs))
            )
            channeled = any(len(shape) > count for shape in shown.values())
            where = f" and channel_axis={axis!r}" if channeled and axis == "last" else ""
            texts.append(f"dimensions={count}{where}: {_reading('', found[count, axis], fed, given)}")
        return "; ".join(dict.fromkeys(texts))

    counts = sorted({count for count, _ in found})
    if len(counts) > 1:
        ways = [key for key in found if key[1] == "first" or not _same(shown.values(), *key)]
        text = READINGS.format(
            fields=shown, count=len(ways), name=name, readings=readings(ways), first=next(iter(shown))
        )
        raise ConfigError(text)
    ways = [key for key in found if key[0] == counts[0]]
    # two channels of 48 x 48 points are plain; as many channels as points somewhere, or more, are not
    if len(ways) > 1 and any(len(shape) > counts[0] and shape[0] >= min(shape[1:]) for shape in shown.values()):
        raise ConfigError(CHANNEL_AXIS.format(fields=shown, name=name, readings=readings(ways)))
    return ways[0]


def _common_grid(shapes: Iterable[tuple[int, ...]], dimensions: int, axis: Axis) -> tuple[int, ...] | None:
    """Return the grid of all fields in a reading of their shapes; None where they have none in common."""
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
    """Say whether no field has channels, so that it does not matter where they are."""
    return all(len(shape) == dimensions for shape in shapes)


def _reading(name: str, grid: Sequence[int], fed: int, given: int) -> str:
    many = "channel" if fed == 1 else "channels"
    text = f"{len(grid)}-D grid {' x '.join(map(str, grid))}, {fed} {many} in, {given} out"
    return f"{name}: {text}" if name else text


def _as_first(spec: SampleSpec, inputs: Sequence[str], given: int | None, bare: int) -> bool:
    """Say whether a single output of one channel has an axis for it exactly if the first input on the grid has one."""
    first = next((spec[name].shape for name in inputs if spec[name].shape), None)
    return (given or 1) > 1 or (first is not None and (len(first) == bare) == (given is None))


# --- what a residual adds to


def _residual(
    residual: Residual,
    spec: SampleSpec,
    inputs: Sequence[str],
    outputs: Sequence[str],
    fed: Mapping[str, int],
    given: Sequence[int | None],
) -> list[int | None]:
    """Return the input channel that is added to each output channel."""
    if isinstance(residual, Sequence) and not isinstance(residual, str):
        return list(residual)
    if isinstance(residual, str) and len(outputs) > 1:
        raise ConfigError(f"residual={residual!r} is for one output; there are {list(outputs)}: {{output: input, ...}}")
    chosen = {outputs[0]: residual} if isinstance(residual, str) else residual
    starts = {name: sum(fed[other] for other in inputs[:at]) for at, name in enumerate(inputs)}
    if isinstance(chosen, Mapping):
        for role, names, known in (("output", chosen, outputs), ("input", chosen.values(), inputs)):
            if unknown := [name for name in names if name not in known]:
                raise ConfigError(NO_SUCH.format(name=unknown[0], role=role, known=list(known)))
    channels: list[int | None] = []
    for name, count in zip(outputs, given, strict=True):
        size = count or 1
        source = _counterpart(name, spec, inputs) if chosen is True else cast(Mapping[str, str], chosen).get(name)
        if source is None:
            channels += [None] * size
            continue
        if fed[source] != size:
            raise ConfigError(UNLIKE.format(name=source, got=fed[source], output=name, want=size))
        channels += range(starts[source], starts[source] + size)
    return channels


def _counterpart(output: str, spec: SampleSpec, inputs: Sequence[str]) -> str:
    """Return the input field of the output's name, or the only one of its shape."""
    if output in inputs:
        return output
    alike = [name for name in inputs if spec[name].shape == spec[output].shape]
    if len(alike) == 1:
        return alike[0]
    found = f"{alike} have this shape" if alike else f"none of the inputs {list(inputs)} has this shape"
    example = repr((alike or list(inputs))[0])
    raise ConfigError(NO_COUNTERPART.format(output=output, shape=spec[output].shape, found=found, example=example))
