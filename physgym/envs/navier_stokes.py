"""`NavierStokes2D`: the vorticity of a two-dimensional flow under a steady force, in a periodic square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from physgym.envs.navier_stokes_solver import RandomVorticity, VorticitySolver
from physgym.envs.periodic import PeriodicField
from physgym.errors import ConfigError
from physgym.scene.objects import Scene
from physgym.scene.style import Style
from physgym.scene.values import field, prediction
from physgym.spaces import Array


class NavierStokes2D(PeriodicField):
    r"""Incompressible flow in the periodic unit square: :math:`w_t + u \cdot \nabla w = \nu \Delta w + f`.

    w is the vorticity, the curl of the velocity u, which has no divergence and no mean; all is dimensionless. The
    force is :math:`f = 0.1 (\sin 2 \pi (x + y) + \cos 2 \pi (x + y))`. The set-up of the Fourier neural operator with
    viscosity 0.001: from the vorticity at times 1 to 10 a network learns that up to time 50.

    The initial vorticity is the parameter ``initial``; a drawn one is a Gaussian random field
    :math:`N(0, \sigma^2 (-\Delta + \tau^2)^{-\alpha})`. The action is to wait, and the observation is the vorticity.

    Fourier collocation with the 2/3 rule against aliasing; time by the classical Runge-Kutta method of order four with
    an integrating factor for the viscous term. A step is rejected when it would need more than ``max_steps``.

    Sample: ``state`` and ``next_state``, (size, size), float32, rows along x; see `PeriodicField`.

    Args:
        size: Grid points per side, even.
        viscosity: :math:`\nu`.
        force: Factor of the force, in place of 0.1.
        time_step: Time of one solver step.
        field_scale: :math:`\sigma` of the random initial field; the default is that of the published program,
            :math:`\sqrt 2 \cdot 7^{3/2}`, where the paper says :math:`7^{3/4}`.
        field_tau: :math:`\tau`, an inverse length.
        field_power: :math:`\alpha`; the larger, the smoother.
        limit: Bound of the initial field; a draw that exceeds it is scaled down.
        courant: Time step of the integration in units of its advective limit.
        min_steps: Time steps of the integration in a solver step, at least.
        max_steps: Time steps of the integration in a solver step, at most.
        simulations_per_step: Solver steps per environment step.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.

    Source: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, section 5.3.
    """

    dimensions: ClassVar[int] = 2
    sample_dimensions: ClassVar[dict[str, int]] = {"state": 2, "next_state": 2}
    title: ClassVar[str] = "Vorticity of a forced flow"

    def __init__(
        self,
        *,
        size: int = 64,
        viscosity: float = 1e-3,
        force: float = 0.1,
        time_step: float = 1.0,
        field_scale: float = 2**0.5 * 7**1.5,
        field_tau: float = 7.0,
        field_power: float = 2.5,
        limit: float = 10.0,
        courant: float = 1.0,
        min_steps: int = 8,
        max_steps: int = 4096,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            size=size,
            length=1.0,
            time_step=time_step,
            limit=limit,
            simulations_per_step=simulations_per_step,
            render_mode=render_mode,
        )
        if not np.isfinite(force):
            raise ConfigError(f"force must be finite, not {force}")
        x = np.arange(size) / size
        phase = 2 * np.pi * (x[:, None] + x)
        self._solver = VorticitySolver(
            size,
            viscosity=viscosity,
            forcing=force * (np.sin(phase) + np.cos(phase)),
            courant=courant,
            min_steps=min_steps,
            max_steps=max_steps,
        )
        self._fields = RandomVorticity(size, scale=field_scale, tau=field_tau, power=field_power, limit=limit)

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw the initial vorticity."""
        return {"initial": self._fields.draw(self.np_random)}

    def evolve(self, field: Array) -> Array:
        """Return the vorticity after one time step; it may be one that is not finite.

        Raises:
            RejectSample: The flow is too fast for ``max_steps``.
        """
        return self._solver.evolve(field, self.time_step)

    def scene(self, scene: Scene) -> None:
        """Declare the vorticity; below it, where there is one, the prediction and its error."""
        now, said = field("next_state"), prediction("next_state")
        scale: Style = {"colours": "RdBu_r", "limits": "symmetric", "group": "vorticity"}
        scene.title(self.title)
        scene.image("vorticity", now, **scale)
        scene.image("error", said - now, colours="PRGn", limits="symmetric", label="error of prediction")
        scene.image("predicted vorticity", said, **scale)
