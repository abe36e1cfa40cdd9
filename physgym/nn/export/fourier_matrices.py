"""`FourierMatrices`: the Fourier layer of an `FNO` by real matrices, for formats without complex numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from physgym.nn.fno import SpectralConv
from physgym.spaces import Array


class FourierMatrices(nn.Module):
    """The same function as a `SpectralConv`, to rounding; the matrices hold its modes alone.

    Args:
        layer: The layer, whose weights are used.
    """

    def __init__(self, layer: SpectralConv) -> None:
        super().__init__()
        self.modes, self.weight = layer.modes, layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """Filter a field: shape (batch, width, *grid) to the same, in the dtype of the weights."""
        x = x.to(self.weight.dtype)
        grid, inner, (a, b) = x.shape[2:], range(x.ndim - 3), self.weight
        others = [waves(grid[axis], np.arange(1 - self.modes[axis], self.modes[axis]), x) for axis in inner]
        last = np.arange(self.modes[-1])
        cos, sin = waves(grid[-1], last, x)  # (points, modes)
        re, im = x @ cos / grid[-1], -(x @ sin) / grid[-1]
        for axis, (c, s) in zip(inner, others, strict=True):
            re, im = (value.transpose(2 + axis, -1) for value in (re, im))
            re, im = (value.transpose(2 + axis, -1) / grid[axis] for value in (re @ c + im @ s, im @ c - re @ s))
        kept = re.shape[2:]
        re, im = (value.flatten(2).permute(2, 0, 1) for value in (re, im))  # (mode, batch, width)
        re, im = re @ a - im @ b, re @ b + im @ a
        re, im = (value.permute(1, 2, 0).unflatten(2, kept) for value in (re, im))  # (batch, width, *kept)
        for axis, (c, s) in zip(reversed(inner), reversed(others), strict=True):
            re, im = (value.transpose(2 + axis, -1) for value in (re, im))
            re, im = (value.transpose(2 + axis, -1) for value in (re @ c.T - im @ s.T, im @ c.T + re @ s.T))
        twice = _like(np.where(last > 0, 2.0, 1.0), x)  # the field is real: modes k and -k of the last axis
        filtered: Tensor = re * twice @ cos.T - im * twice @ sin.T
        return filtered


def waves(points: int, modes: Array, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of modes at the points of an axis, shape (points, modes).

    The angle is 2 pi (n k mod N) / N, the remainder taken in integers, so that it is exact for any mode.
    """
    angle = (np.arange(points)[:, None] * modes % points) * (2 * np.pi / points)
    return _like(np.cos(angle), like), _like(np.sin(angle), like)


def _like(values: Array, tensor: Tensor) -> Tensor:
    return torch.from_numpy(values).to(tensor.device, tensor.dtype)
