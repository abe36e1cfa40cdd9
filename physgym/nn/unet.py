"""`UNet`: an encoder and decoder with skip connections, for fields on regular grids in one to three dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from physgym.checks import integer, integers, is_integer, one_of
from physgym.errors import ConfigError
from physgym.nn.grid import GridNetwork
from physgym.nn.grid_layout import CONV, Axis
from physgym.nn.mlp import activation_class
from physgym.nn.registry import named_network

Norm = Literal["group", "batch", "none"]
Boundary = Literal["zeros", "replicate", "circular", "valid"]
Merge = Literal["concatenate", "add"]

CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_GROUPS = 8


@named_network
class UNet(GridNetwork):
    """The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015) for grids of any size.

    Each of `depth` levels halves the grid and doubles the channels; on the way back each joins the features of the
    same size from the way down. A size that 2**depth does not divide is padded at its end, and the output cropped.
    What a point can see spans some ten points of the coarsest grid: where the answer depends on the whole field,
    choose the depth so that this grid has no more than that.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output; or a list with those of each of several outputs. None stands for an output
            without a channel axis; a single output of one channel has none if the first input on the grid has none.
        depth: How many times the grid is halved.
        width: Channels at the full size; or at each of the depth + 1 sizes, the full one first, in place of doubling.
        convolutions: How many in a row at each size, on either way.
        merge: How the features of the way down are joined: "concatenate", or "add" for half the channels.
        norm: Normalization after each convolution: over groups of channels, over the batch, or none.
        activation: Name of the activation, a key of `physgym.nn.mlp.ACTIVATIONS`.
        boundary: What convolutions see beyond the edge: "zeros", "replicate" (the edge's value), or "circular" for
            periodic domains, exact where 2**depth divides the sizes. With "valid" none sees beyond it: the input is
            extended once, by the edge's value, by as many points as the convolutions take off.
        residual: What is added to the output, so that the network learns a change: True for the input field that
            corresponds to each output, see `from_spec`, or for each output channel the number of an input channel, or
            None. Without named fields, True adds the first `out_channels` channels of a single input.
        nodes: Nodes per axis of the grid, for fields that list nodes: shape (n_nodes, channels) or (n_nodes,), the
            last axis of the grid running fastest. The output has shape (n_nodes, out_channels).
        channel_axis: Where fields have their channels: "first", (channels, *grid), or "last", (*grid, channels).
        inputs: Names of the input fields, in the order of the arguments.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int | Sequence[int | None] | None,
        *,
        depth: int = 3,
        width: int | Sequence[int] = 32,
        convolutions: int = 2,
        merge: Merge = "concatenate",
        norm: Norm = "group",
        activation: str = "relu",
        boundary: Boundary = "zeros",
        residual: bool | Sequence[int | None] = False,
        nodes: Sequence[int] | None = None,
        channel_axis: Axis = "first",
        inputs: Sequence[str] | None = None,
    ) -> None:
        depth, given = integer("depth", depth), integers("width", width)
        super().__init__(
            dimensions,
            in_channels,
            out_channels,
            nodes,
            channel_axis=channel_axis,
            residual=residual,
            inputs=inputs,
            depth=depth,
            width=given,
            convolutions=convolutions,
            merge=merge,
            norm=norm,
            activation=activation,
            boundary=boundary,
        )
        widths = [given * 2**level for level in range(depth + 1)] if is_integer(given) else given
        if not is_integer(depth, 0) or len(widths) != depth + 1 or not all(is_integer(one, 1) for one in widths):
            raise ConfigError(
                f"depth={depth} must not be negative, and width={width} one positive number or one for each of depth + "
                "1 sizes"
            )
        for name, value, choices in (("norm", norm, Norm), ("boundary", boundary, Boundary), ("merge", merge, Merge)):
            one_of(name, value, get_args(choices))
        convolutions = integer("convolutions", convolutions, 1)
        self.depth, self.convolutions, self.merge, self.boundary = depth, convolutions, merge, boundary

        def block(fan_in: int, fan_out: int) -> nn.Sequential:
            """Make convolutions, each with its normalization and activation."""
            parts: list[nn.Module] = []
            padding = {"padding": 0} if boundary == "valid" else {"padding": 1, "padding_mode": boundary}
            for channels in (fan_in, *[fan_out] * (convolutions - 1)):
                # a normalization over the batch subtracts each channel's mean, and with it any bias
                conv = cast(Any, CONV[dimensions])(channels, fan_out, 3, bias=norm != "batch", **padding)
                if norm == "none":  # nothing else keeps the magnitude from layer to layer
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                parts += [conv, *_norm(norm, dimensions, fan_out), activation_class(activation)()]
            return nn.Sequential(*parts)

        self.first = block(in_channels, widths[0])
        self.pool = POOL[dimensions](2)
        self.down = nn.ModuleList(block(a, b) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(CONV_TRANSPOSE[dimensions](b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.join = nn.ModuleList(block(2 * a if merge == "concatenate" else a, a) for a in widths[:-1])
        self.head = CONV[dimensions](widths[0], self.out_channels, 1)

    def compute(self, x: Tensor) -> Tensor:
        """Evaluate the network on the grid: shape (batch, in_channels, *grid) to (batch, out_channels, *grid)."""
        h = self.first(self._extended(x) if self.boundary == "valid" else self._padded(x))  # (batch, width, *padded)
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(self.pool(h))  # half the size, twice the channels
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(skips), strict=True):
            h = up(h)
            skip = _inner(skip, h.shape[2:]) if self.boundary == "valid" else skip
            h = join(skip + h if self.merge == "add" else torch.cat([skip, h], 1))
        y: Tensor = self.head(h)[(..., *(slice(size) for size in x.shape[2:]))]  # (batch, out_channels, *grid)
        return y

    def _extended(self, x: Tensor) -> Tensor:
        """Extend both ends of each axis by the points that convolutions without padding take off."""
        for axis, size in enumerate(x.shape[2:], start=2):
            before, total = self._margin(size, self.depth)
            at = torch.arange(total, device=x.device) - before
            x = x.index_select(axis, at.clamp(0, size - 1))
        return x

    def _margin(self, size: int, levels: int) -> tuple[int, int]:
        """Return the points that an axis of the input needs before an output of a size, and in all."""
        taken = self.convolutions  # at each end, by the convolutions at one size
        if levels == 0:
            return taken, size + 2 * taken
        half = (size + 2 * taken + 1) // 2  # of the way up, at the size below
        before, below = self._margin(half, levels - 1)
        return taken + 2 * before + taken, 2 * below + 2 * taken

    def _padded(self, x: Tensor) -> Tensor:
        """Pad each size to a multiple of 2**depth."""
        for axis, size in enumerate(x.shape[2:], start=2):
            missing = -size % 2**self.depth
            if not missing:
                continue
            # by index instead of `pad`, which refuses to wrap a small grid around more than once
            beyond = torch.arange(size, size + missing, device=x.device)
            beyond = beyond % size if self.boundary == "circular" else beyond.clamp(max=size - 1)
            x = torch.cat([x, x.index_select(axis, beyond)], axis)
        return x


def _inner(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Return the middle of a field of shape (batch, channels, *larger grid)."""
    for axis, size in enumerate(grid, start=2):
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def _norm(norm: Norm, dimensions: int, channels: int) -> list[nn.Module]:
    if norm == "group":
        return [nn.GroupNorm(math.gcd(MAX_GROUPS, channels), channels)]
    return [cast(Any, BATCH_NORM[dimensions])(channels)] if norm == "batch" else []
