"""`UNet`: an encoder and decoder with skip connections, for fields on regular grids in one to three dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.mlp import activation_class
from physgym.nn.predictor import field_names
from physgym.nn.registry import register
from physgym.sample import SampleSpec

Norm = Literal["group", "batch", "none"]
Boundary = Literal["zeros", "replicate", "circular"]

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_GROUPS = 8

GRID = "a field has shape {got} without the batch axis; this UNet takes {want}"
CHANNELS = "the fields have {got} channels together; this UNet was made for in_channels={want}"


@register
class UNet(nn.Module):
    """The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015) for grids of any size.

    Each of `depth` levels halves the grid and doubles the channels; on the way back each joins the features of the
    same size from the way down. A size that 2**depth does not divide is padded at its end, and the output cropped.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output.
        depth: How many times the grid is halved.
        width: Channels at the full size.
        norm: Normalization after each convolution: over groups of channels, over the batch, or none.
        activation: Name of the activation, a key of `physgym.nn.mlp.ACTIVATIONS`.
        boundary: What convolutions see beyond the edge: "zeros", "replicate" (the edge's value), or "circular" for
            periodic domains, exact where 2**depth divides the sizes.
        residual: Add the first `out_channels` input channels to the output, so that the network learns a change.
        nodes: Nodes per axis of the grid, for fields that list nodes: shape (n_nodes, channels) or (n_nodes,), the
            last axis of the grid running fastest. The output has shape (n_nodes, out_channels).

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        *,
        depth: int = 3,
        width: int = 32,
        norm: Norm = "group",
        activation: str = "relu",
        boundary: Boundary = "zeros",
        residual: bool = False,
        nodes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if dimensions not in CONV:
            raise ConfigError(f"dimensions must be 1, 2 or 3, not {dimensions}")
        if min(in_channels, out_channels, width) < 1 or depth < 0:
            raise ConfigError("in_channels, out_channels and width must be positive, and depth not negative")
        if norm not in get_args(Norm) or boundary not in get_args(Boundary):
            raise ConfigError(f"norm is one of {get_args(Norm)} and boundary one of {get_args(Boundary)}")
        if residual and out_channels > in_channels:
            raise ConfigError(f"residual adds the input's first {out_channels} channels, but it has {in_channels}")
        if nodes is not None and len(nodes) != dimensions:
            raise ConfigError(f"nodes must give {dimensions} numbers, not {list(nodes)}")
        self._options: dict[str, Any] = {
            "dimensions": dimensions,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "depth": depth,
            "width": width,
            "norm": norm,
            "activation": activation,
            "boundary": boundary,
            "residual": residual,
            "nodes": None if nodes is None else list(nodes),
        }
        self.dimensions, self.in_channels, self.out_channels = dimensions, in_channels, out_channels
        self.depth, self.residual, self.boundary = depth, residual, boundary
        self.nodes = None if nodes is None else tuple(nodes)

        def block(fan_in: int, fan_out: int) -> nn.Sequential:
            """Two convolutions, each with its normalization and activation."""
            parts: list[nn.Module] = []
            for channels in (fan_in, fan_out):
                # a normalization over the batch subtracts each channel's mean, and with it any bias
                conv = CONV[dimensions](channels, fan_out, 3, padding=1, padding_mode=boundary, bias=norm != "batch")
                parts += [conv, *_norm(norm, dimensions, fan_out), activation_class(activation)()]
            return nn.Sequential(*parts)

        widths = [width * 2**level for level in range(depth + 1)]
        self.first = block(in_channels, width)
        self.pool = POOL[dimensions](2)
        self.down = nn.ModuleList(block(a, b) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(CONV_TRANSPOSE[dimensions](b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.join = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
        self.head = CONV[dimensions](width, out_channels, 1)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON data."""
        return dict(self._options)

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
            ConfigError: There is no field to feed, or not exactly one to predict.
        """
        inputs, outputs = field_names(spec, inputs, outputs)
        if len(outputs) != 1:
            raise ConfigError(f"a UNet predicts one field, not {list(outputs)}; choose one with `outputs`")
        target = spec[outputs[0]].shape
        if dimensions is None:
            dimensions = len(target) if nodes is None else len(nodes)
        bare = dimensions if nodes is None else 1  # axes of a field without channels

        def channels(shape: tuple[int, ...]) -> int:
            return 1 if len(shape) == bare else shape[0 if nodes is None else -1]

        fed = sum(channels(spec[name].shape) for name in inputs)
        return cls(dimensions, fed, channels(target), nodes=nodes, **options)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            inputs: Fields on the grid, shape (batch, *grid) or (batch, channels, *grid), stacked as channels; with
                `nodes` shape (batch, n_nodes) or (batch, n_nodes, channels). Any real dtype.

        Returns:
            Shape (batch, out_channels, *grid) in the dtype of the weights, with `nodes` (batch, n_nodes, out_channels);
            a single channel has no axis if the first input has none.

        Raises:
            ConfigError: An input has not the shape of the grid, or the channels are too few or too many.
        """
        dtype = self.head.weight.dtype
        parts = [self._with_channels(value) for value in inputs]
        x = torch.cat([value.to(dtype) for value in parts], 1) if len(parts) > 1 else parts[0].to(dtype)
        if x.shape[1] != self.in_channels:
            raise ConfigError(CHANNELS.format(got=x.shape[1], want=self.in_channels))

        h = self.first(self._padded(x))  # (batch, width, *padded)
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(self.pool(h))  # half the size, twice the channels
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(skips), strict=True):
            h = join(torch.cat([skip, up(h)], 1))
        y: Tensor = self.head(h)[(..., *(slice(size) for size in x.shape[2:]))]  # (batch, out_channels, *grid)
        if self.residual:
            y = y + x[:, : self.out_channels]
        return self._without_channels(y, bare=inputs[0].ndim == (2 if self.nodes else self.dimensions + 1))

    def _with_channels(self, value: Tensor) -> Tensor:
        """A field as (batch, channels, *grid)."""
        if self.nodes is not None:
            if value.ndim not in (2, 3) or value.shape[1] != math.prod(self.nodes):
                want = f"({math.prod(self.nodes)},) or ({math.prod(self.nodes)}, channels)"
                raise ConfigError(GRID.format(got=tuple(value.shape[1:]), want=want))
            return value.reshape(len(value), *self.nodes, -1).movedim(-1, 1)
        if value.ndim == self.dimensions + 1:
            return value.unsqueeze(1)
        if value.ndim != self.dimensions + 2:
            want = f"{self.dimensions} axes, or one more for channels"
            raise ConfigError(GRID.format(got=tuple(value.shape[1:]), want=want))
        return value

    def _without_channels(self, y: Tensor, *, bare: bool) -> Tensor:
        """The output in the form of the inputs."""
        bare = bare and self.out_channels == 1
        if self.nodes is not None:
            y = y.flatten(2).movedim(1, -1)  # (batch, n_nodes, out_channels)
            return y.squeeze(-1) if bare else y
        return y.squeeze(1) if bare else y

    def _padded(self, x: Tensor) -> Tensor:
        """The input with each size raised to a multiple of 2**depth."""
        for axis, size in enumerate(x.shape[2:], start=2):
            missing = -size % 2**self.depth
            if not missing:
                continue
            # by index instead of `pad`, which refuses to wrap a small grid around more than once
            beyond = torch.arange(size, size + missing, device=x.device)
            beyond = beyond % size if self.boundary == "circular" else beyond.clamp(max=size - 1)
            x = torch.cat([x, x.index_select(axis, beyond)], axis)
        return x


def _norm(norm: Norm, dimensions: int, channels: int) -> list[nn.Module]:
    if norm == "group":
        return [nn.GroupNorm(math.gcd(MAX_GROUPS, channels), channels)]
    return [cast(Any, BATCH_NORM[dimensions])(channels)] if norm == "batch" else []
