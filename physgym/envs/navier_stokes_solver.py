"""The incompressible Navier-Stokes equations in a periodic square, in terms of vorticity, and random initial fields.

Fourier collocation with the 2/3 rule against aliasing; in time the classical Runge-Kutta method of order four with an
integrating factor for the viscous term, so that only advection limits the time step. The force is taken out first: what
is integrated is the difference from the vorticity that force and viscosity alone would hold, which is exact for them.

Source: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26 (2005), section 2.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft2, rfft2

from physgym.checks import positive
from physgym.envs.burgers_solver import step_limits, within
from physgym.errors import RejectSample
from physgym.spaces import Array


class VorticitySolver:
    r"""Solver of :math:`w_t + u \cdot \nabla w = \nu \Delta w + f` in the unit square, where w is the curl of u.

    Args:
        size: Grid points per side, even.
        viscosity: :math:`\nu`.
        forcing: f at the grid points, shape (size, size); its mean does not count.
        courant: Time step in units of the advective limit 1 / (largest speed times the largest wave number).
        min_steps: Time steps at least, for one call.
        max_steps: Time steps at most.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self, size: int, *, viscosity: float, forcing: Array, courant: float, min_steps: int, max_steps: int
    ) -> None:
        self.size = size
        self.viscosity, self.courant = positive("viscosity", viscosity), positive("courant", courant)
        step_limits(min_steps, max_steps)
        self.min_steps, self.max_steps = min_steps, max_steps
        along = 2 * np.pi * np.fft.fftfreq(size, 1 / size)[:, None]
        across = 2 * np.pi * np.arange(size // 2 + 1)
        self._kept = (np.abs(along) < 2 * np.pi * size / 3) & (across < 2 * np.pi * size / 3)
        self._largest = float(across[across < 2 * np.pi * size / 3][-1])
        self._squares = along**2 + across**2
        inverse = np.divide(1.0, self._squares, out=np.zeros_like(self._squares), where=self._squares > 0)
        # with rows along x: u = (ψ_y, -ψ_x), where -Δψ = w
        self._velocities = np.stack((1j * across * inverse, -1j * along * inverse))
        self._gradients = np.stack((1j * along * self._kept, 1j * across * self._kept))
        self._held = rfft2(forcing) * self._kept * inverse / viscosity

    def evolve(self, vorticity: Array, time: float) -> Array:
        """Return the vorticity after a time.

        Args:
            vorticity: Shape (size, size), float64.
            time: How long.

        Raises:
            RejectSample: The solution needs too many time steps, or is not finite.
        """
        spectrum = rfft2(vorticity) * self._kept - self._held
        with np.errstate(over="ignore", invalid="ignore"):  # a blow-up is a rejection, here or elsewhere
            steps = self._needed_steps(spectrum, time)
            dt = time / steps
            half = np.exp(-self.viscosity * self._squares * dt / 2)
            whole = half**2
            for _ in range(steps):
                a = dt * self._change(spectrum)
                b = dt * self._change(half * (spectrum + a / 2))
                c = dt * self._change(half * spectrum + b / 2)
                d = dt * self._change(whole * spectrum + half * c)
                spectrum = whole * spectrum + (whole * a + 2 * half * (b + c) + d) / 6
        found: Array = irfft2(spectrum + self._held, (self.size, self.size))
        return found

    def _change(self, spectrum: Array) -> Array:
        """Return the spectrum of what advection adds to the vorticity in a unit of time."""
        shape, whole = (self.size, self.size), spectrum + self._held
        fluxes = irfft2(self._velocities * whole, shape) * irfft2(whole, shape)
        advected = self._gradients * rfft2(fluxes)
        change: Array = -advected[0] - advected[1]
        return change

    def _needed_steps(self, spectrum: Array, time: float) -> int:
        velocity = irfft2(self._velocities * (spectrum + self._held), (self.size, self.size))
        speed = float(np.sqrt((velocity**2).sum(0).max()))
        needed = time * speed * self._largest / self.courant
        if not needed <= self.max_steps:  # also true for nan
            raise RejectSample(
                f"the flow, with speeds up to {speed:g}, needs {needed:g} time steps, more than max_steps = "
                f"{self.max_steps}"
            )
        return max(self.min_steps, int(np.ceil(needed)))


class RandomVorticity:
    r"""Gaussian random field :math:`N(0, \sigma^2 (-\Delta + \tau^2)^{-\alpha})` in the periodic unit square.

    Its mean is zero. One seed gives the same field on every grid, up to what the grid cannot show.

    Args:
        size: Grid points per side, even.
        scale: :math:`\sigma`.
        tau: :math:`\tau`, an inverse length.
        power: :math:`\alpha`; the larger, the smoother.
        limit: Bound of the field; a draw that exceeds it is scaled down.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, size: int, *, scale: float, tau: float, power: float, limit: float) -> None:
        for name, value in (("field_scale", scale), ("field_tau", tau), ("field_power", power), ("limit", limit)):
            positive(name, value)
        self.size, self.limit = size, limit
        along, across = (
            axis.ravel() for axis in np.meshgrid(np.arange(1 - size // 2, size // 2), np.arange(size // 2))
        )
        one_of_each = (across > 0) | (along > 0)  # the other one of a wave is its conjugate
        along, across = along[one_of_each], across[one_of_each]
        # a finer grid draws the same numbers first and only adds waves
        order = np.lexsort((along, across, np.maximum(np.abs(along), across)))
        self._along, self._across = along[order], across[order]
        squares = 4 * np.pi**2 * (self._along**2 + self._across**2)
        self._spread = scale * (squares + tau**2) ** (-power / 2)

    def draw(self, rng: np.random.Generator) -> Array:
        """Draw a field, shape (size, size), float32."""
        waves = rng.standard_normal((len(self._spread), 2)) * self._spread[:, None]
        numbers = np.sqrt(2) / 2 * (waves[:, 0] - 1j * waves[:, 1])
        spectrum = np.zeros((self.size, self.size // 2 + 1), np.complex128)
        spectrum[self._along, self._across] = numbers
        edge = self._across == 0
        spectrum[-self._along[edge], 0] = numbers[edge].conj()
        field: Array = irfft2(spectrum * self.size**2, (self.size, self.size))
        return within(field, self.limit)
