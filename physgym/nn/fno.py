"""`FNO`: the Fourier neural operator, for fields on regular grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physgym.checks import integer, integers, is_integer
from physgym.errors import ConfigError
from physgym.nn.grid import GridNetwork
from physgym.nn.grid_layout import CONV, Axis
from physgym.nn.mlp import activation_class
from physgym.nn.registry import named_network


@named_network
class FNO(GridNetwork):
    """The Fourier neural operator, a map between functions on grids of any size.

    Inputs and coordinates are lifted to `width` channels at each point. Each layer adds a linear map of the lowest
    Fourier modes and one of the channels at each point, and applies the activation (the last one does not). Two maps
    at each point give the output. The same weights take any grid that holds the modes; on a finer one they give the
    same function, as far as the grids resolve it.

    The Fourier transform takes the domain as periodic. Where it is not, `padding` puts a strip of zeros behind the end
    of each axis, which the layers may fill, and cuts it off again.

    The modes' weights are pairs of real numbers, which follow `.double()` and fit every file; the transform has the
    precision of the weights under autocast too. `torch.compile` leaves out the modes, and says so in a warning.

    Source: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021,
    arXiv:2010.08895.

    Args:
        dimensions: Of the grid: 1, 2 or 3.
        in_channels: Channels of all inputs together; a field without a channel axis counts as one.
        out_channels: Channels of the output, or a list for several outputs, as for `UNet`.
        modes: Fourier modes kept along each axis, the constant one included: one number or one per axis. A grid needs
            at least ``2 * modes - 1`` points, the padding included.
        width: Channels of the layers.
        depth: Number of Fourier layers.
        projection: Channels between the last layer and the output.
        activation: Name of the activation, a key of `physgym.nn.mlp.ACTIVATIONS`.
        padding: Length of the strip of zeros as a part of the domain; 0 for periodic domains.
        coordinates: Feed the position too: without padding as sine and cosine along each axis, whose grid is taken
            as 0, 1/n, ..., (n-1)/n of the period. With padding, as a number from 0 at the first point of an axis to 1
            at its last one. Without the position, shifting the input along a periodic axis shifts the output.
        residual: What is added to the output, as for `UNet`.
        nodes: Nodes per axis of the grid, for fields that list nodes, as for `UNet`.
        channel_axis: Where fields have their channels, as for `UNet`.
        inputs: Names of the input fields, as for `UNet`.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int | Sequence[int | None] | None,
        *,
        modes: int | Sequence[int] = 16,
        width: int = 64,
        depth: int = 4,
        projection: int = 128,
        activation: str = "gelu",
        padding: float = 0.0,
        coordinates: bool = True,
        residual: bool | Sequence[int | None] = False,
        nodes: Sequence[int] | None = None,
        channel_axis: Axis = "first",
        inputs: Sequence[str] | None = None,
    ) -> None:
        modes, width = integers("modes", modes), integer("width", width)
        depth, projection = integer("depth", depth), integer("projection", projection)
        super().__init__(
            dimensions,
            in_channels,
            out_channels,
            nodes,
            channel_axis=channel_axis,
            residual=residual,
            inputs=inputs,
            modes=modes,
            width=width,
            depth=depth,
            projection=projection,
            activation=activation,
            padding=padding,
            coordinates=coordinates,
        )
        self.modes = (modes,) * dimensions if is_integer(modes) else tuple(modes)
        if len(self.modes) != dimensions:
            raise ConfigError(f"modes must be one number or {dimensions}, not {modes}")
        if not all(is_integer(number, 1) for number in (width, depth, projection, *self.modes)):
            raise ConfigError(
                f"modes, width, depth and projection must be positive, not {modes}, {width}, {depth}, {projection}"
            )
        if not 0 <= padding < math.inf:
            raise ConfigError(f"padding is a part of the domain, at least 0, not {padding}")
        self.padding, self.coordinates = padding, coordinates
        fed = in_channels + (coordinates and (dimensions if padding else 2 * dimensions))
        self.lift = CONV[dimensions](fed, width, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, self.modes) for _ in range(depth))
        self.pointwise = nn.ModuleList(CONV[dimensions](width, width, 1) for _ in range(depth))
        self.activation = activation_class(activation)()
        self.project = CONV[dimensions](width, projection, 1)
        self.head = CONV[dimensions](projection, self.out_channels, 1)

    def compute(self, x: Tensor) -> Tensor:
        """Evaluate the network on the grid: shape (batch, in_channels, *grid) to (batch, out_channels, *grid).

        Raises:
            ConfigError: The grid is too coarse for the modes.
        """
        grid = x.shape[2:]
        if self.coordinates:
            x = torch.cat([x, self._positions(x).expand(x.shape[0], *(-1,) * (1 + len(grid)))], 1)
        h = self.lift(x)  # (batch, width, *grid)
        strips = [math.ceil(self.padding * size) for size in grid]
        for axis, (size, strip, modes) in enumerate(zip(grid, strips, self.modes, strict=True)):
            if size + strip < 2 * modes - 1:
                padded = f" and {strip} of padding" if strip else ""
                text = (
                    f"a grid of {size} points{padded} along axis {axis} cannot hold modes={modes} Fourier modes; "
                    f"it needs at least {2 * modes - 1} points. Use a finer grid or fewer modes."
                )
                raise ConfigError(text)
        if self.padding:
            h = nn.functional.pad(h, [n for strip in reversed(strips) for n in (0, strip)])
        for index, (spectral, pointwise) in enumerate(zip(self.spectral, self.pointwise, strict=True)):
            h = spectral(h) + pointwise(h)  # (batch, width, *padded)
            if index < len(self.spectral) - 1:
                h = self.activation(h)
        h = h[(..., *(slice(size) for size in grid))]
        y: Tensor = self.head(self.activation(self.project(h)))
        return y

    def _positions(self, x: Tensor) -> Tensor:
        """Return coordinates as channels, shape (1, channels, *grid)."""
        found = []
        for size in x.shape[2:]:
            at = torch.arange(size, dtype=x.dtype, device=x.device)
            if self.padding:
                found.append([at / max(size - 1, 1)])
            else:
                found.append([torch.sin(2 * torch.pi * at / size), torch.cos(2 * torch.pi * at / size)])
        channels = [
            value.view(*(-1 if other == axis else 1 for other in range(self.dimensions))).expand(x.shape[2:])
            for axis, values in enumerate(found)
            for value in values
        ]
        return torch.stack(channels)[None]


class SpectralConv(nn.Module):
    """A convolution whose kernel is a sum of few Fourier modes: a matrix over the channels for each mode.

    Args:
        width: Channels in and out.
        modes: Modes kept along each axis, the constant one included; as many negative frequencies are kept.
    """

    def __init__(self, width: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        # real fields: the last axis needs no negative frequencies
        kept = [2 * count - 1 for count in self.modes[:-1]] + [self.modes[-1]]
        # real and imaginary part, mode, in, out: as the batched product below wants it
        self.weight = nn.Parameter(torch.rand(2, math.prod(kept), width, width) / width**2)

    def forward(self, x: Tensor) -> Tensor:
        """Filter a field.

        Args:
            x: Shape (batch, width, *grid).

        Returns:
            The same shape, in the dtype of the weights.
        """
        with torch.autocast(x.device.type, enabled=False):  # there is no Fourier transform of bfloat16
            return self._filtered(x.to(self.weight.dtype))

    def _filtered(self, x: Tensor) -> Tensor:
        grid, modes = x.shape[2:], self.modes
        # "forward": coefficients of the function, whatever the number of points
        c = torch.fft.rfft(x, norm="forward")[..., : modes[-1]]
        for axis in range(len(grid) - 1):
            c = torch.fft.fft(c, dim=2 + axis, norm="forward").index_select(2 + axis, self._lowest(axis, x))
        kept = c.shape[2:]
        c = c.flatten(2).permute(2, 0, 1)  # (mode, batch, width)
        c = c @ torch.complex(self.weight[0], self.weight[1])
        c = c.permute(1, 2, 0).unflatten(2, kept)  # (batch, width, *kept)
        for axis in reversed(range(len(grid) - 1)):
            shape = [*c.shape[: 2 + axis], grid[axis], *c.shape[3 + axis :]]
            c = c.new_zeros(shape).index_copy(2 + axis, self._lowest(axis, x), c)
            c = torch.fft.ifft(c, dim=2 + axis, norm="forward")
        filtered: Tensor = torch.fft.irfft(c, n=grid[-1], norm="forward")
        return filtered

    def _lowest(self, axis: int, x: Tensor) -> Tensor:
        """Return the indices of the lowest frequencies of an axis: 0, 1, ..., and the negative ones at its end."""
        beyond = self.modes[axis]
        return torch.arange(1 - beyond, beyond, device=x.device) % x.shape[2 + axis]
