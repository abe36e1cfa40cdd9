"""`Burgers`: the one-dimensional viscous Burgers equation, from a random initial field to a later time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from physgym.checks import positive
from physgym.envs.burgers_solver import BurgersSolver, RandomField, on_grid
from physgym.errors import ConfigError
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.scene.values import field, prediction
from physgym.simulation import Simulation
from physgym.spaces import Array


class Burgers(Simulation[Array, Array]):
    r"""Viscous Burgers equation on a circle: :math:`u_t + u u_x = \nu u_{xx}`, x in (0, 1), all dimensionless.

    The set-up of the Fourier neural operator: a network learns the field at the final time from the initial one, which
    is drawn from the Gaussian random field :math:`N(0, \sigma^2 (-\Delta + \tau^2)^{-\alpha})`.

    The *action* is the initial field: a step imposes it and lets it evolve. `sample_action` draws from the random
    field above; uniform draws from `action_space` are white noise, which viscosity wipes out. The *observation* is the
    field now: zero after a reset, and after a step that was rejected. With several ``simulations_per_step`` the field
    evolves by that many times ``final_time``. One seed gives the same field on every grid, up to what the grid cannot
    show.

    Fourier collocation with the 2/3 rule against aliasing; time by the classical Runge-Kutta method of order four with
    an integrating factor for the viscous term, so that only advection limits the time step. Over 40 random fields the
    relative L2 error against the exact solution had a median of 2e-7 and a maximum of 6e-6. A step is rejected when the
    solution is not finite, is not resolved by the grid, or would need more than ``max_steps``.

    With the published viscosity of 0.1 little but the mean survives until time 1: predicting the mean of the initial
    field has a median relative L2 error of 1.3 %. Viscosity 0.01 leaves steep fronts (24 %) and is the harder case.

    Sample: ``initial`` (size,) and ``final`` (size,), float32.

    Args:
        size: Grid points, even; x = 0, 1/size, ...
        viscosity: :math:`\nu`, or its lowest and highest value: then it is the parameter of an episode, uniform in that
            range, and the sample has it as the further input ``viscosity``.
        final_time: Time that the field evolves.
        field_scale: :math:`\sigma` of the random initial field.
        field_tau: :math:`\tau`, an inverse length.
        field_power: :math:`\alpha`; the larger, the smoother.
        limit: Bound of the action; a draw that exceeds it is scaled down.
        courant: Time step in units of the advective limit 1 / (max abs u times the largest wave number that viscosity
            leaves).
        min_steps: Time steps at least; governs the error of weak fields, which viscosity dominates.
        max_steps: Time steps at most.
        tail: Largest ratio of the highest to the greatest Fourier coefficient for which the result counts as resolved.
        simulations_per_step: See above.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.

    Sources:
        Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, section 5.1.
        Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26 (2005), section 2.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Env declares it so
    sample_roles: ClassVar[dict[str, FieldRole]] = {"initial": "input", "final": "target"}

    def __init__(
        self,
        *,
        size: int = 256,
        viscosity: float | tuple[float, float] = 0.1,
        final_time: float = 1.0,
        field_scale: float = 25.0,
        field_tau: float = 5.0,
        field_power: float = 2.0,
        limit: float = 10.0,
        courant: float = 1.0,
        min_steps: int = 64,
        max_steps: int = 16384,
        tail: float = 1e-3,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        low, high = np.broadcast_to(np.asarray(viscosity, np.float64), 2).tolist()
        if not low <= high:
            raise ConfigError(f"viscosity must be a number, or two, the lower first, not {viscosity}")
        for name, value in (("viscosity", low), ("highest viscosity", high), ("final_time", final_time)):
            positive(name, value)
        self.solver = BurgersSolver(size, courant=courant, min_steps=min_steps, max_steps=max_steps, tail=tail)
        self._fields = RandomField(size, scale=field_scale, tau=field_tau, power=field_power, limit=limit)
        self.size = size
        self.viscosity = low
        self.final_time = final_time
        self.time_step = final_time
        self.limit = limit

        anything = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = spaces.Box(-limit, limit, (size,), np.float32)
        self.observation_space = anything
        fields: dict[str, spaces.Space[Any]] = {"initial": anything, "final": anything}
        if np.ndim(viscosity):
            self.parameter_space = spaces.Dict({"viscosity": spaces.Box(low, high, (), np.float64)})
            self.sample_roles = {**self.sample_roles, "viscosity": "input"}  # type: ignore[misc]  # of this one alone
            fields["viscosity"] = spaces.Box(low, high, (), np.float32)
        self.sample_space = spaces.Dict(fields)

    def begin(self, options: dict[str, Any]) -> None:
        """Set the field to zero; what evolves is the action of the next step."""
        if self.parameters:
            self.viscosity = float(self.parameters["viscosity"])
        self._initial: Array = np.zeros(self.size)
        self._field: Array = np.zeros(self.size)
        self._steps = 0

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Impose the initial field and let it evolve; see `Simulation.step`.

        Args:
            action: Initial field, shape (size,), float32.
        """
        self._initial = np.array(action, np.float64)
        self._field = self._initial
        self._steps = 0
        return super().step(action)

    def advance(self, action: Array) -> None:
        """Let the field evolve by ``final_time``; the action was imposed by `step`.

        Raises:
            RejectSample: The solution is not finite, not resolved, or needs too many time steps.
        """
        start, self._field = self._field, np.zeros(self.size)
        self._field, steps = self.solver.evolve(start, self.viscosity, self.final_time)
        self._steps += steps

    def observation(self) -> Array:
        """Return the field now, shape (size,), float32."""
        return self._field.astype(np.float32)

    def sample(self) -> Mapping[str, Any]:
        """Return the initial and final field of the step just made, and the viscosity where it is a parameter."""
        sample: dict[str, Any] = {"initial": self._initial, "final": self._field}
        return {**sample, "viscosity": np.float64(self.viscosity)} if self.parameters else sample

    def info(self) -> dict[str, Any]:
        """Return ``solver_steps``: the time steps that the last step took."""
        return {"solver_steps": self._steps}

    def sample_action(self, rng: np.random.Generator) -> Array:
        """Draw an initial field from the Gaussian random field, shape (size,), float32."""
        return self._fields.draw(rng)

    def load_sample(self, sample: Mapping[str, Array]) -> Array:
        """Return the stored ``initial`` field; one of another grid by its Fourier series."""
        return on_grid(sample["initial"], self.size)

    def state(self) -> Mapping[str, Any]:
        """Return the ``field`` now, the ``initial`` one before it, and the ``viscosity``."""
        fields = {"field": self._field.copy(), "initial": self._initial.copy()}
        return {**fields, "viscosity": self.viscosity, "time_step": self.time_step}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        values = self.checked_state(state)
        self._field, self._initial = values["field"], values["initial"]
        self.viscosity = float(values["viscosity"])
        self._steps, self.shown_prediction = 0, {}
        if self.parameters:
            self.parameters = {"viscosity": self.viscosity}

    def inputs(self, action: Array) -> Mapping[str, Any]:
        """Return the initial field, and the viscosity where it is a parameter."""
        return {"initial": action, "viscosity": np.float64(self.viscosity)} if self.parameters else {"initial": action}

    def adopt(self, action: Array, prediction: Mapping[str, Array]) -> None:
        """Take ``final`` as the field."""
        self._initial, self._steps = np.array(action, np.float64), 0
        self._field = np.array(prediction["final"], np.float64)

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Show a predicted final field in the pictures, until the episode ends or another comes.

        Args:
            prediction: ``final``, shape (size,).
        """
        self.shown_prediction = {"final": np.array(prediction["final"])}

    def scene(self, scene: Scene) -> None:
        """Declare the initial field, the field now, and the prediction as a dashed line."""
        ends = (0.0, (self.size - 1) / self.size)
        scene.title(f"Burgers equation, time {self.final_time:g}")
        scene.curve("initial", field("initial"), ends=ends, xlabel="x", unit="u", group="u")
        scene.curve("final", field("final"), ends=ends, unit="u", group="u")
        scene.curve("prediction", prediction("final"), ends=ends, unit="u", group="u", ghost=True)
        if self.parameter_space is None:
            scene.text("viscosity", f"viscosity {self.viscosity:g}")
        else:
            scene.text("viscosity", "viscosity {:.4g}", values=field("viscosity"))
