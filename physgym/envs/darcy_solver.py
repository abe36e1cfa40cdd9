"""Steady flow through a porous square, solved by finite volumes, and random media of two materials.

Fluxes between grid points pass through the harmonic mean of their permeabilities, which is exact for layers that meet
half-way. Conjugate gradients with the Laplacian as preconditioner, inverted by sine transforms: the number of
iterations depends on the contrast of the medium and hardly on the grid.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dstn, idstn

from physgym.checks import integer, positive
from physgym.errors import RejectSample
from physgym.spaces import Array


class DarcySolver:
    r"""Solver of :math:`-\nabla \cdot (a \nabla p) = f` in the unit square with :math:`p = 0` on its edges.

    Args:
        size: Grid points per side, edges included, at least 3; the spacing is 1 / (size - 1).
        tolerance: Norm of the residual over that of the source at which the solution counts as found.
        max_iterations: Of conjugate gradients.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, size: int, *, tolerance: float = 1e-9, max_iterations: int = 1000) -> None:
        self.size = integer("size", size, 3)
        self.tolerance = positive("tolerance", tolerance)
        self.max_iterations = integer("max_iterations", max_iterations, 1)
        waves = 2 - 2 * np.cos(np.pi * np.arange(1, size - 1) / (size - 1))
        self._laplacian = waves[:, None] + waves  # of the sine modes, in units of the spacing

    def solve(self, permeability: Array, source: Array) -> tuple[Array, int]:
        """Return the pressure.

        Args:
            permeability: At the grid points, positive, shape (size, size).
            source: f at the grid points, shape (size, size); its edges do not matter.

        Returns:
            The pressure, shape (size, size), float64, and the number of iterations.

        Raises:
            RejectSample: A permeability is not positive and finite, a source is not finite, or the solution is not
                found.
        """
        a = np.asarray(permeability, np.float64)
        if not (np.isfinite(a).all() and a.min() > 0):
            raise RejectSample(f"permeabilities must be positive and finite, not {np.nanmin(a):g} to {np.nanmax(a):g}")
        inner = np.asarray(source, np.float64)[1:-1, 1:-1] / (self.size - 1) ** 2
        if not np.isfinite(inner).all():
            raise RejectSample("the source is not finite")
        down = 2 * a[:-1, 1:-1] * a[1:, 1:-1] / (a[:-1, 1:-1] + a[1:, 1:-1])
        across = 2 * a[1:-1, :-1] * a[1:-1, 1:] / (a[1:-1, :-1] + a[1:-1, 1:])
        pressure = np.zeros((self.size, self.size))
        pressure[1:-1, 1:-1], iterations = self._conjugate_gradients(down, across, inner)
        return pressure, iterations

    def _conjugate_gradients(self, down: Array, across: Array, source: Array) -> tuple[Array, int]:
        """Return the pressure at inner points under fluxes down and across, and the number of iterations."""
        padded = np.zeros((self.size, self.size))
        found, residual = np.zeros_like(source), source.copy()
        enough = self.tolerance * float(np.linalg.norm(source))
        direction, before = np.zeros_like(source), 1.0
        for iteration in range(self.max_iterations):
            if not float(np.linalg.norm(residual)) > enough:
                return found, iteration
            smooth = idstn(dstn(residual, type=1) / self._laplacian, type=1)
            product = float(np.vdot(residual, smooth))
            direction = smooth + (product / before if iteration else 0.0) * direction
            before = product
            padded[1:-1, 1:-1] = direction
            outflow = np.diff(down * np.diff(padded[:, 1:-1], axis=0), axis=0)
            outflow += np.diff(across * np.diff(padded[1:-1], axis=1), axis=1)
            length = -product / float(np.vdot(direction, outflow))
            found += length * direction
            residual += length * outflow
        raise RejectSample(
            f"no solution within {self.max_iterations} iterations: the permeabilities differ too much; give a larger "
            "max_iterations or tolerance"
        )


class RandomMedium:
    r"""Medium of two materials: one where a Gaussian random field is positive, the other where it is not.

    The field is :math:`N(0, (-\Delta + \tau^2)^{-\alpha})` on the unit square with no flux through its edges, without
    its mean. One seed gives the same medium on every grid, up to what the grid cannot show.

    Args:
        size: Grid points per side, edges included.
        values: The permeabilities, the one where the field is not positive first.
        tau: :math:`\tau`, an inverse length.
        power: :math:`\alpha`; the larger, the smoother the edges between the materials.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, size: int, *, values: tuple[float, float], tau: float, power: float) -> None:
        for name, value in (("field_tau", tau), ("field_power", power)):
            positive(name, value)
        self.values = values
        modes = np.arange(size)
        self._spread = ((np.pi * modes[:, None]) ** 2 + (np.pi * modes) ** 2 + tau**2) ** (-power / 2)
        self._spread[0, 0] = 0.0
        self._waves = np.cos(np.pi * np.outer(modes / (size - 1), modes))
        self._waves[:, 1:] *= np.sqrt(2)
        # a finer grid draws the same numbers first and only adds waves
        row, column = (axis.ravel() for axis in np.indices((size, size)))
        self._order = np.lexsort((column, row, np.maximum(row, column)))

    def draw(self, rng: np.random.Generator) -> Array:
        """Draw a medium, shape (size, size), float32."""
        numbers = np.empty(len(self._order))
        numbers[self._order] = rng.standard_normal(len(self._order))
        field = self._waves @ (self._spread * numbers.reshape(self._spread.shape)) @ self._waves.T
        low, high = self.values
        return np.where(field > 0, np.float32(high), np.float32(low))
