"""`UNet`: an encoder and decoder with skip connections, for fields on regular grids in one to three dimensions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.grid import CONV, GridNetwork
from physgym.nn.mlp import activation_class
from physgym.nn.registry import register

Norm = Literal["group", "batch", "none"]
Boundary = Literal["zeros", "replicate", "circular"]

CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_GROUPS = 8

WIDTH = "depth={depth} must not be negative, and width={width} one positive number or one for each of depth + 1 sizes"


@register
class UNet(GridNetwork):
    """The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015) for grids of any size.

    Each of `depth` levels halves the grid and doubles the channels; on the way back each joins the features of the
    same size from the way down. A size that 2**depth does not divide is padded at its end, and the output cropped.
    What a point can see spans some ten points of the coarsest grid: where the answer depends on the whole field,
    choose the depth so that this grid has no more than that.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output.
        depth: How many times the grid is halved.
        width: Channels at the full size; or at each of the depth + 1 sizes, the full one first, in place of doubling.
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
        width: int | Sequence[int] = 32,
        norm: Norm = "group",
        activation: str = "relu",
        boundary: Boundary = "zeros",
        residual: bool = False,
        nodes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            dimensions,
            in_channels,
            out_channels,
            nodes,
            depth=depth,
            width=width if isinstance(width, int) else list(width),
            norm=norm,
            activation=activation,
            boundary=boundary,
            residual=residual,
        )
        widths = [width * 2**level for level in range(depth + 1)] if isinstance(width, int) else list(width)
        if depth < 0 or len(widths) != depth + 1 or min(widths) < 1:
            raise ConfigError(WIDTH.format(depth=depth, width=width))
        if norm not in get_args(Norm) or boundary not in get_args(Boundary):
            raise ConfigError(f"norm is one of {get_args(Norm)} and boundary one of {get_args(Boundary)}")
        if residual and out_channels > in_channels:
            raise ConfigError(f"residual adds the input's first {out_channels} channels, but it has {in_channels}")
        self.depth, self.residual, self.boundary = depth, residual, boundary

        def block(fan_in: int, fan_out: int) -> nn.Sequential:
            """Two convolutions, each with its normalization and activation."""
            parts: list[nn.Module] = []
            for channels in (fan_in, fan_out):
                # a normalization over the batch subtracts each channel's mean, and with it any bias
                conv = CONV[dimensions](channels, fan_out, 3, padding=1, padding_mode=boundary, bias=norm != "batch")
                if norm == "none":  # nothing else keeps the magnitude from layer to layer
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                parts += [conv, *_norm(norm, dimensions, fan_out), activation_class(activation)()]
            return nn.Sequential(*parts)

        self.first = block(in_channels, widths[0])
        self.pool = POOL[dimensions](2)
        self.down = nn.ModuleList(block(a, b) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(CONV_TRANSPOSE[dimensions](b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.join = nn.ModuleList(block(2 * a, a) for a in widths[:-1])
        self.head = CONV[dimensions](widths[0], out_channels, 1)

    def compute(self, x: Tensor) -> Tensor:
        """The network on the grid: shape (batch, in_channels, *grid) to (batch, out_channels, *grid)."""
        h = self.first(self._padded(x))  # (batch, width, *padded)
        skips = []
        for down in self.down:
            skips.append(h)
            h = down(self.pool(h))  # half the size, twice the channels
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(skips), strict=True):
            h = join(torch.cat([skip, up(h)], 1))
        y: Tensor = self.head(h)[(..., *(slice(size) for size in x.shape[2:]))]  # (batch, out_channels, *grid)
        return y + x[:, : self.out_channels] if self.residual else y

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
