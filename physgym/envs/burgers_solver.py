"""The viscous Burgers equation on a circle, solved by Fourier collocation, and its random initial fields.

The 2/3 rule against aliasing; in time the classical Runge-Kutta method of order four with an integrating factor for the
viscous term, so that only advection limits the time step.

Source: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26 (2005), section 2.
"""

from __future__ import annotations

import numpy as np

from physgym.checks import is_integer, positive
from physgym.errors import ConfigError, RejectSample
from physgym.spaces import Array


class BurgersSolver:
    r"""Solver of :math:`u_t + u u_x = \nu u_{xx}` on a circle of length 1.

    Args:
        size: Grid points, even; x = 0, 1/size, ...
        courant: Time step in units of the advective limit 1 / (max abs u times the largest wave number that viscosity
            leaves).
        min_steps: Time steps at least; governs the error of weak fields, which viscosity dominates.
        max_steps: Time steps at most.
        tail: Largest ratio of the highest to the greatest Fourier coefficient for which the result counts as resolved.

    Attributes:
        wave_numbers: Of the Fourier coefficients, shape (size // 2 + 1,).

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, size: int, *, courant: float, min_steps: int, max_steps: int, tail: float) -> None:
        if not is_integer(size, 8) or size % 2:
            raise ConfigError(f"size must be an even number of grid points, at least 8, not {size}")
        step_limits(min_steps, max_steps)
        self.size, self.courant, self.tail = size, positive("courant", courant), positive("tail", tail)
        self.min_steps, self.max_steps = min_steps, max_steps
        modes = np.arange(size // 2 + 1)
        self.wave_numbers = 2 * np.pi * modes
        self._kept = modes < size / 3

    def evolve(self, field: Array, viscosity: float, time: float) -> tuple[Array, int]:
        """Let a field evolve.

        Args:
            field: Shape (size,), float64.
            viscosity: Of the fluid.
            time: How long.

        Returns:
            The field then, and the number of time steps that it took.

        Raises:
            RejectSample: The solution is not finite, not resolved, or needs too many time steps.
        """
        spectrum = np.fft.rfft(field) * self._kept
        with np.errstate(over="ignore", invalid="ignore"):  # a blow-up becomes a rejection below
            steps = self._needed_steps(spectrum, viscosity, time)
            dt = time / steps
            decay_half = np.exp(-viscosity * self.wave_numbers**2 * dt / 2)
            decay = decay_half**2
            derivative = -0.5j * dt * self.wave_numbers * self._kept

            def advection(v: Array) -> Array:  # -dt (u²/2)_x
                product: Array = derivative * np.fft.rfft(np.fft.irfft(v, self.size) ** 2)
                return product

            for _ in range(steps):
                a = advection(spectrum)
                b = advection(decay_half * (spectrum + a / 2))
                c = advection(decay_half * spectrum + b / 2)
                d = advection(decay * spectrum + decay_half * c)
                spectrum = decay * spectrum + (decay * a + 2 * decay_half * (b + c) + d) / 6
        self._reject_unresolved(spectrum)
        return np.fft.irfft(spectrum, self.size), steps

    def _needed_steps(self, spectrum: Array, viscosity: float, time: float) -> int:
        speed = float(np.abs(np.fft.irfft(spectrum, self.size)).max())
        # waves shorter than viscosity / speed decay faster than they travel, so they set no limit
        wave_number = min(float(self.wave_numbers[self._kept][-1]), speed / viscosity)
        needed = time * speed * wave_number / self.courant
        if not needed <= self.max_steps:  # also true for nan
            raise RejectSample(
                f"the field, max |u| = {speed:g}, needs {needed:g} time steps, more than max_steps = {self.max_steps}"
            )
        return max(self.min_steps, int(np.ceil(needed)))

    def _reject_unresolved(self, spectrum: Array) -> None:
        sizes = np.abs(spectrum[self._kept])
        if not np.isfinite(sizes).all():
            raise RejectSample("the solution is not finite; use a smaller courant number")
        if (end := sizes[-(len(sizes) // 4) :].max()) > self.tail * (greatest := sizes.max()):
            raise RejectSample(
                f"the grid does not resolve the solution: its spectrum falls only to {end / greatest:.1e} of its peak, "
                f"not {self.tail:.1e}; use a larger size or viscosity"
            )


class RandomField:
    r"""Gaussian random field :math:`N(0, \sigma^2 (-\Delta + \tau^2)^{-\alpha})` on a circle of length 1.

    One seed gives the same field on every grid, up to what the grid cannot show.

    Args:
        size: Grid points, even.
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
        self._spread = scale * ((2 * np.pi * np.arange(size // 2 + 1)) ** 2 + tau**2) ** (-power / 2)

    def draw(self, rng: np.random.Generator) -> Array:
        """Draw a field, shape (size,), float32."""
        half = self.size // 2
        # wave by wave, so that a finer grid draws the same numbers first and only adds waves
        waves = rng.standard_normal((half, 2)) * self._spread[:half, None]
        spectrum = np.zeros(half + 1, np.complex128)
        spectrum[:half] = np.sqrt(2) / 2 * (waves[:, 0] - 1j * waves[:, 1])
        spectrum[0] = waves[0, 0]
        field = np.fft.irfft(spectrum * self.size, self.size)
        return within(field, self.limit)


def step_limits(min_steps: int, max_steps: int) -> None:
    """Check the least and the greatest number of time steps.

    Raises:
        ConfigError: They are no integers of at least 1, the lower first.
    """
    if not is_integer(min_steps, 1) or not is_integer(max_steps, min_steps):
        raise ConfigError(f"1 <= min_steps <= max_steps must hold, not {min_steps} and {max_steps}")


def within(field: Array, limit: float) -> Array:
    """Return a field as float32, scaled down where it exceeds a limit."""
    field = field * min(1.0, limit / max(float(np.abs(field).max()), np.finfo(float).tiny))
    return np.clip(field.astype(np.float32), -limit, limit)


def on_grid(field: Array, size: int) -> Array:
    """Return a periodic field on a grid of another size by its Fourier series.

    Args:
        field: As many points along each axis.
        size: Points along each axis of the other grid.

    Returns:
        The field there, float32.
    """
    field = np.asarray(field, np.float32)
    if len(field) == size:
        return field
    carried: Array = field
    for axis, points in enumerate(field.shape):
        carried = np.fft.irfft(np.fft.rfft(carried, axis=axis), size, axis=axis) * (size / points)
    return carried.astype(np.float32)
