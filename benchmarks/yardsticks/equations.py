"""Simulations of the yardsticks that are not shipped: exact or spectral, and on a finer grid than the samples show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from physgym.checks import integer
from physgym.envs.burgers_step import BurgersStep
from physgym.envs.darcy import Darcy
from physgym.envs.kuramoto_sivashinsky import KuramotoSivashinsky
from physgym.envs.navier_stokes import NavierStokes2D
from physgym.envs.periodic import PeriodicField
from physgym.simulation import Simulation


class Thinned(Simulation):
    """A simulation of fields whose samples show every so many points of its grid, along each axis.

    Args:
        every: Show one of so many points, the first one included.
        **arguments: Of the simulation.
    """

    def __init__(self, *, every: int = 1, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._every = integer("every", every, 1)
        low_high = {name: (space.low, space.high) for name, space in self.sample_space.spaces.items()}
        self.sample_space = spaces.Dict(
            {name: spaces.Box(self._shown(low), self._shown(high)) for name, (low, high) in low_high.items()}
        )

    def _shown(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[(slice(None, None, self._every),) * values.ndim])

    def sample(self) -> Mapping[str, Any]:
        """Return the fields of the simulation at the points shown."""
        return {name: self._shown(values) for name, values in super().sample().items()}


class ThinnedDarcy(Thinned, Darcy):
    """`Darcy`, solved on a finer grid."""


class ThinnedFlow(Thinned, NavierStokes2D):
    """`NavierStokes2D`, solved on a finer grid."""


class ThinnedWaves(Thinned, KuramotoSivashinsky):
    """`KuramotoSivashinsky`, solved on a finer grid."""


class DrawnBurgers(Thinned, BurgersStep):
    """`BurgersStep` from a sum of sine waves, solved on a finer grid.

    Args:
        waves: As those of `sine_waves`, or 0 for `fourier_series`.
        **arguments: Of `BurgersStep`, and `every`.
    """

    def __init__(self, *, waves: int = 2, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._waves = waves

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw the initial field."""
        return {"initial": _drawn(self.np_random, self.size, self._waves)}


class Advection(PeriodicField):
    r"""Advection on a circle of length 1: :math:`u_t + \beta u_x = 0`, solved exactly by its Fourier series.

    Args:
        size: Grid points.
        beta: Velocity.
        time_step: Time of one step.
        waves: As those of `sine_waves`, or 0 for `fourier_series`.
        **options: `simulations_per_step` and `render_mode` of every simulation.
    """

    title = "Advection"

    def __init__(
        self,
        *,
        size: int = 256,
        beta: float = 0.1,
        time_step: float = 0.05,
        waves: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(size=size, length=1.0, time_step=time_step, limit=10.0, **options)
        self._waves = waves
        modes = np.arange(size // 2 + 1)
        self._shift = np.exp(-2j * np.pi * modes * beta * time_step)

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw the initial field."""
        return {"initial": _drawn(self.np_random, self.size, self._waves)}

    def evolve(self, field: np.ndarray) -> np.ndarray:
        """Return the field moved by what it moves in one step."""
        return np.fft.irfft(np.fft.rfft(field) * self._shift, self.size)


class DiffusionReaction(PeriodicField):
    r"""Fisher's equation on a circle of length 1: :math:`u_t = \nu u_{xx} + \rho u (1 - u)`, with u from 0 to 1.

    By splitting of second order (Strang): half a step of reaction, which is exact, one of diffusion, exact by the
    Fourier series, and half a step of reaction.

    Args:
        size: Grid points.
        nu: Diffusivity.
        rho: Rate of the reaction.
        time_step: Time of one step.
        substeps: Steps of the splitting in it.
        **options: `simulations_per_step` and `render_mode` of every simulation.
    """

    title = "Diffusion and reaction"

    def __init__(
        self,
        *,
        size: int = 256,
        nu: float = 0.5,
        rho: float = 1.0,
        time_step: float = 0.01,
        substeps: int = 4,
        **options: Any,
    ) -> None:
        super().__init__(size=size, length=1.0, time_step=time_step, limit=1.0, **options)
        self._substeps = integer("substeps", substeps, 1)
        step = time_step / substeps
        self._decay = np.exp(-nu * (2 * np.pi * np.arange(size // 2 + 1)) ** 2 * step)
        self._growth = np.exp(rho * step / 2)

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw the initial field: two sine waves, moved and scaled to lie between 0 and 1."""
        field = sine_waves(self.np_random, self.size, highest=4)
        return {"initial": ((field - field.min()) / (field.max() - field.min())).astype(np.float32)}

    def evolve(self, field: np.ndarray) -> np.ndarray:
        """Return the field after one step."""
        for _ in range(self._substeps):
            field = self._react(field)
            field = np.fft.irfft(np.fft.rfft(field) * self._decay, self.size)
            field = self._react(field)
        return field

    def _react(self, field: np.ndarray) -> np.ndarray:
        grown = field * self._growth
        return grown / (1 - field + grown)


def sine_waves(rng: np.random.Generator, size: int, *, count: int = 2, highest: int = 8) -> np.ndarray:
    """Draw a sum of sine waves on the grid of a circle, as in PDEBench.

    Each of `count` has a whole number of periods from 1 to `highest`, an amplitude from 0 to 1 and any phase.
    """
    x = np.arange(size) / size
    periods = rng.integers(1, highest + 1, (count, 1))
    amplitudes, phases = rng.uniform(0, 1, (count, 1)), rng.uniform(0, 2 * np.pi, (count, 1))
    return (amplitudes * np.sin(2 * np.pi * periods * x + phases)).sum(0)


def fourier_series(rng: np.random.Generator, size: int, highest: int = 5) -> np.ndarray:
    """Draw a Fourier series without a mean whose largest magnitude is 1, as the initial fields of APEBench."""
    x, waves = np.arange(size) / size, np.arange(1, highest + 1)[:, None]
    factors = rng.uniform(-1, 1, (2, highest, 1))
    field = (factors[0] * np.sin(2 * np.pi * waves * x) + factors[1] * np.cos(2 * np.pi * waves * x)).sum(0)
    return field / np.abs(field).max()


def _drawn(rng: np.random.Generator, size: int, waves: int) -> np.ndarray:
    """Draw sine waves or, where `waves` is 0, a Fourier series: float32, from which anybody can begin."""
    field = sine_waves(rng, size, count=waves) if waves else fourier_series(rng, size)
    return field.astype(np.float32)
