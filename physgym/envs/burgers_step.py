"""`BurgersStep`: the one-dimensional viscous Burgers equation, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from physgym.checks import positive
from physgym.envs.burgers_solver import BurgersSolver, RandomField
from physgym.envs.periodic import PeriodicField
from physgym.errors import ConfigError
from physgym.spaces import Array


class BurgersStep(PeriodicField):
    r"""Viscous Burgers equation on a circle of length 1: :math:`u_t + u u_x = \nu u_{xx}`, all dimensionless.

    `Burgers` goes from the initial field to the final one at once; here an episode of 20 steps takes the same time.
    The initial field, drawn from the Gaussian random field of `Burgers`, is the parameter ``initial``, the action is to
    wait, and the observation is the field now. Solver and rejection are those of `Burgers`. Over 40 random fields the
    relative L2 error against the exact solution, after 20 steps, is below 1e-5.

    Sample: ``state`` and ``next_state``, (size,), float32; see `PeriodicField`.

    Args:
        size: Grid points, even; x = 0, 1/size, ...
        viscosity: :math:`\nu`, or its lowest and highest value: then it is another parameter of an episode, uniform in
            that range, and the sample has it as the further input ``viscosity``.
        time_step: Time of one solver step.
        field_scale: :math:`\sigma` of the random initial field, as in `Burgers`.
        field_tau: :math:`\tau`.
        field_power: :math:`\alpha`.
        limit: Bound of the initial field; a draw that exceeds it is scaled down.
        courant: As in `Burgers`.
        min_steps: As in `Burgers`.
        max_steps: As in `Burgers`.
        tail: As in `Burgers`.
        simulations_per_step: Solver steps per environment step.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.
    """

    title: ClassVar[str] = "Burgers equation"

    def __init__(
        self,
        *,
        size: int = 256,
        viscosity: float | tuple[float, float] = 0.01,
        time_step: float = 0.05,
        field_scale: float = 25.0,
        field_tau: float = 5.0,
        field_power: float = 2.0,
        limit: float = 10.0,
        courant: float = 1.0,
        min_steps: int = 8,
        max_steps: int = 16384,
        tail: float = 1e-3,
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
        low, high = np.broadcast_to(np.asarray(viscosity, np.float64), 2).tolist()
        if not low <= high:
            raise ConfigError(f"viscosity must be a number, or two, the lower first, not {viscosity}")
        positive("viscosity", low)
        positive("highest viscosity", high)
        self.solver = BurgersSolver(size, courant=courant, min_steps=min_steps, max_steps=max_steps, tail=tail)
        self.viscosity = low
        self._varies = bool(np.ndim(viscosity))
        self._fields = RandomField(size, scale=field_scale, tau=field_tau, power=field_power, limit=limit)
        if self._varies:
            assert self.parameter_space is not None
            self.parameter_space = spaces.Dict(
                [*self.parameter_space.items(), ("viscosity", spaces.Box(low, high, (), np.float64))]
            )
            self.sample_roles = {**self.sample_roles, "viscosity": "input"}  # type: ignore[misc]  # of this one alone
            self.sample_space = spaces.Dict(
                {**self.sample_space.spaces, "viscosity": spaces.Box(low, high, (), np.float32)}
            )

    def draw_parameters(self) -> Mapping[str, Any]:
        """Draw the initial field from the Gaussian random field, and the viscosity where it varies."""
        drawn = {"initial": self._fields.draw(self.np_random)}
        if not self._varies:
            return drawn
        assert self.parameter_space is not None
        bounds: Any = self.parameter_space["viscosity"]
        return {**drawn, "viscosity": self.np_random.uniform(float(bounds.low), float(bounds.high))}

    def begin(self, options: dict[str, Any]) -> None:
        """Set the initial field and the viscosity."""
        super().begin(options)
        if self._varies:
            self.viscosity = float(self.parameters["viscosity"])
        self._steps = 0

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Let time pass; see `Simulation.step`.

        Args:
            action: 0.
        """
        self._steps = 0
        return super().step(action)

    def evolve(self, field: Array) -> Array:
        """Return a field after one time step.

        Raises:
            RejectSample: The solution is not finite, not resolved, or needs too many time steps.
        """
        field, steps = self.solver.evolve(field, self.viscosity, self.time_step)
        self._steps += steps
        return field

    def sample(self) -> Mapping[str, Any]:
        """Return the field before and after the step, and the viscosity where it varies."""
        return {**super().sample(), "viscosity": np.float64(self.viscosity)} if self._varies else super().sample()

    def state(self) -> Mapping[str, Any]:
        """Return the ``field``, its largest value so far, ``reach``, the ``viscosity``, and the parameters."""
        return {**super().state(), "viscosity": self.viscosity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        super().set_state(state)
        self.viscosity, self._steps = float(state["viscosity"]), 0
        if self._varies:
            self.parameters = {**self.parameters, "viscosity": self.viscosity}

    def inputs(self, action: np.int64) -> Mapping[str, Any]:
        """Return the field now, and the viscosity where it varies."""
        fed = super().inputs(action)
        return {**fed, "viscosity": np.float64(self.viscosity)} if self._varies else fed

    def info(self) -> dict[str, Any]:
        """Return ``solver_steps``: the time steps of the solver in the last step."""
        return {"solver_steps": self._steps}
