"""`KuramotoSivashinsky`: the Kuramoto-Sivashinsky equation on a circle, which is chaotic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from physgym.checks import integer
from physgym.envs.periodic import PeriodicField
from physgym.errors import ConfigError
from physgym.spaces import Array

MODES = 8  # of the random fields that the warm-up begins with


class KuramotoSivashinsky(PeriodicField):
    """Kuramoto-Sivashinsky equation on a circle: u_t + u u_x + u_xx + u_xxxx = 0, all dimensionless.

    Long waves grow, short ones are damped, and advection carries energy from the former to the latter: at the default
    length the field is chaotic, and two that are close separate by a factor of e in about 11 units of time. The mean
    is kept; it is zero in what is drawn.

    The initial field is the parameter ``initial``; a drawn one has evolved from a few random waves for the time
    ``warm_up``, so that it is one of those among which the equation wanders. The action is to wait, and the observation
    is the field now.

    Fourier collocation with the 2/3 rule against aliasing; time by ETDRK4, which is exact for the linear terms and of
    order four for advection. Against a solution of four times the points and steps the relative L2 error of a step was
    below 3e-5 for four fields, and that of ten steps below 1e-4.

    Sample: ``state`` and ``next_state``, (size,), float32; see `PeriodicField`.

    Args:
        size: Grid points, even; x = 0, length / size, ...
        length: Of the circle.
        time_step: Time of one solver step.
        substeps: Steps of the integration in a solver step.
        warm_up: Time for which a drawn initial field has evolved.
        limit: Bound of the initial field.
        simulations_per_step: Solver steps per environment step.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.

    Source: Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26 (2005).
    """

    title: ClassVar[str] = "Kuramoto-Sivashinsky equation"

    def __init__(
        self,
        *,
        size: int = 128,
        length: float = 64.0,
        time_step: float = 0.5,
        substeps: int = 4,
        warm_up: float = 50.0,
        limit: float = 10.0,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            size=size,
            length=length,
            time_step=time_step,
            limit=limit,
            simulations_per_step=simulations_per_step,
            render_mode=render_mode,
        )
        if not 0 <= warm_up < np.inf:
            raise ConfigError(f"warm_up must be a time, at least 0, not {warm_up}")
        self.substeps = integer("substeps", substeps, 1)
        self._warm_steps = round(warm_up / time_step)
        self._scheme = _Scheme(size, length, time_step / self.substeps)

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw a few random waves and let them evolve for the time of the warm-up."""
        # wave by wave, so that every grid has the same field
        height, phase = self.np_random.uniform((0.0, 0.0), (1.0, 2 * np.pi), (MODES, 2)).T
        x = np.arange(self.size) * (2 * np.pi / self.size)
        field: Array = height @ np.cos(np.arange(1, MODES + 1)[:, None] * x + phase[:, None])
        for _ in range(self._warm_steps):
            field = self.evolve(field)
        # float32 is less than exact: the drawn parameters are those from which anybody can begin
        return {"initial": np.clip(field.astype(np.float32), -self.limit, self.limit)}

    def evolve(self, field: Array) -> Array:
        """Return a field after one time step; it may be one that is not finite."""
        return self._scheme.advance(field, self.substeps)


class _Scheme:
    """ETDRK4 for the equation on a grid.

    Args:
        size: Grid points.
        length: Of the circle.
        step: Time of a step.
    """

    def __init__(self, size: int, length: float, step: float) -> None:
        self._size = size
        modes = np.arange(size // 2 + 1)
        wave_numbers = 2 * np.pi * modes / length
        rates = wave_numbers**2 - wave_numbers**4
        self._kept = modes < size / 3
        self._advection = -0.5j * wave_numbers * self._kept  # of the spectrum of u²
        # means over a circle of the functions of the scheme, which cancel where a rate is near 0
        points = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
        z = step * rates[:, None] + points
        grown = np.exp(z)
        self._growth, self._half_growth = np.exp(step * rates), np.exp(step * rates / 2)
        self._half = step * ((np.exp(z / 2) - 1) / z).mean(1).real
        self._first = step * ((-4 - z + grown * (4 - 3 * z + z**2)) / z**3).mean(1).real
        self._middle = 2 * step * ((2 + z + grown * (z - 2)) / z**3).mean(1).real
        self._last = step * ((-4 - 3 * z - z**2 + grown * (4 - z)) / z**3).mean(1).real

    def advance(self, field: Array, steps: int) -> Array:
        """Return a field after some steps, shape (size,), float64."""
        size, product, half, half_growth = self._size, self._advection, self._half, self._half_growth

        def advection(spectrum: Array) -> Array:  # -(u²/2)_x
            found: Array = product * np.fft.rfft(np.fft.irfft(spectrum, size) ** 2)
            return found

        v = np.fft.rfft(field) * self._kept
        with np.errstate(over="ignore", invalid="ignore"):  # a blow-up is a rejection, elsewhere
            for _ in range(steps):
                begin = advection(v)
                moved = half_growth * v
                a = moved + half * begin
                at_a = advection(a)
                at_b = advection(moved + half * at_a)
                at_c = advection(half_growth * a + half * (2 * at_b - begin))
                v = self._growth * v + self._first * begin + self._middle * (at_a + at_b) + self._last * at_c
        return np.fft.irfft(v, size)
