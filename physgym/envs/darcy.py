"""`Darcy`: the pressure of a steady flow through a random porous medium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from physgym.checks import positive
from physgym.envs.darcy_solver import DarcySolver, RandomMedium
from physgym.errors import ConfigError
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.scene.style import Style
from physgym.scene.values import field, prediction
from physgym.simulation import Simulation
from physgym.spaces import Array


class Darcy(Simulation[Array, Array]):
    r"""Darcy flow in the unit square: :math:`-\nabla \cdot (a \nabla p) = f`, p = 0 on the edges, all dimensionless.

    The set-up of the Fourier neural operator: a network learns the pressure from the permeability, which has one of two
    values, divided by a Gaussian random field. There the grid has 421 points a side; its 85 are every fifth of those.

    The *action* is the permeability at the grid points: a step imposes it and solves. `sample_action` draws a medium as
    above. The *observation* is the pressure: zero after a reset, and after a step that was rejected. One seed gives the
    same medium on every grid, up to what the grid cannot show.

    Finite volumes of second order, with harmonic means between grid points; conjugate gradients. Where the permeability
    jumps the error falls with the spacing alone: see the tests for figures. Permeabilities that are not positive
    are rejected.

    Sample: ``permeability`` and ``pressure``, (size, size), float32.

    Args:
        size: Grid points per side, edges included; rows along y, columns along x.
        values: The two permeabilities of drawn media, the lower first; they are the bounds of the action as well.
        source: f, the same everywhere.
        field_tau: :math:`\tau` of the random field, an inverse length.
        field_power: :math:`\alpha` of the random field; the larger, the smoother.
        tolerance: Relative residual at which a solution counts as found.
        simulations_per_step: Of no effect: the flow is steady.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.

    Source: Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, section 5.2.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Env declares it so
    sample_roles: ClassVar[dict[str, FieldRole]] = {"permeability": "input", "pressure": "target"}
    sample_dimensions: ClassVar[dict[str, int]] = {"permeability": 2, "pressure": 2}

    def __init__(
        self,
        *,
        size: int = 85,
        values: tuple[float, float] = (3.0, 12.0),
        source: float = 1.0,
        field_tau: float = 3.0,
        field_power: float = 2.0,
        tolerance: float = 1e-9,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        low, high = values
        positive("the lower permeability", low)
        positive("the higher permeability", high)
        if not low < high:
            raise ConfigError(f"values must be two permeabilities, the lower first, not {values}")
        if not np.isfinite(source):
            raise ConfigError(f"source must be finite, not {source}")
        self.size, self.source, self.values = size, source, (low, high)
        self._solver = DarcySolver(size, tolerance=tolerance)
        self._media = RandomMedium(size, values=(low, high), tau=field_tau, power=field_power)
        anything = spaces.Box(-np.inf, np.inf, (size, size), np.float32)
        self.action_space = spaces.Box(low, high, (size, size), np.float32)
        self.observation_space = anything
        self.sample_space = spaces.Dict({"permeability": self.action_space, "pressure": anything})

    def begin(self, options: dict[str, Any]) -> None:
        """Set the pressure to zero; what is solved for is the action of the next step."""
        self._permeability: Array = np.full((self.size, self.size), self.values[0])
        self._pressure: Array = np.zeros((self.size, self.size))
        self._iterations = 0

    def advance(self, action: Array) -> None:
        """Solve for the pressure under a permeability.

        Args:
            action: Permeability, shape (size, size), float32.

        Raises:
            RejectSample: A permeability is not positive, or the solver does not converge.
        """
        self._permeability, self._pressure = np.array(action, np.float64), np.zeros((self.size, self.size))
        source = np.full((self.size, self.size), self.source)
        self._pressure, self._iterations = self._solver.solve(self._permeability, source)

    def observation(self) -> Array:
        """Return the pressure, shape (size, size), float32."""
        return self._pressure.astype(np.float32)

    def sample(self) -> Mapping[str, Any]:
        """Return the permeability and the pressure of the step just made."""
        return {"permeability": self._permeability, "pressure": self._pressure}

    def info(self) -> dict[str, Any]:
        """Return ``iterations``: of the solver in the last step."""
        return {"iterations": self._iterations}

    def sample_action(self, rng: np.random.Generator) -> Array:
        """Draw a medium of two materials, shape (size, size), float32."""
        return self._media.draw(rng)

    def load_sample(self, sample: Mapping[str, Array]) -> Array:
        """Return the stored ``permeability``; one of another grid at the nearest points."""
        stored: Array = np.asarray(sample["permeability"], np.float32)
        nearest = np.rint(np.linspace(0, len(stored) - 1, self.size)).astype(np.intp)
        return stored[np.ix_(nearest, nearest)]

    def state(self) -> Mapping[str, Any]:
        """Return the ``permeability`` and the ``pressure``."""
        return {"permeability": self._permeability.copy(), "pressure": self._pressure.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        values = self.checked_state(state)
        self._permeability, self._pressure = values["permeability"], values["pressure"]
        self._iterations, self.shown_prediction = 0, {}

    def inputs(self, action: Array) -> Mapping[str, Any]:
        """Return the permeability."""
        return {"permeability": action}

    def adopt(self, action: Array, prediction: Mapping[str, Array]) -> None:
        """Take ``pressure`` as that of the permeability."""
        self._permeability, self._iterations = np.array(action, np.float64), 0
        self._pressure = np.array(prediction["pressure"], np.float64)

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Show a predicted pressure in the pictures, until the episode ends or another comes.

        Args:
            prediction: ``pressure``, shape (size, size).
        """
        self.shown_prediction = {"pressure": np.array(prediction["pressure"])}

    def scene(self, scene: Scene) -> None:
        """Declare permeability and pressure; below them, where there is one, the prediction and its error."""
        now, said = field("pressure"), prediction("pressure")
        scale: Style = {"colours": "viridis", "group": "pressure"}
        scene.image("permeability", field("permeability"), colours="Greys", limits=self.values)
        scene.image("pressure", now, **scale)
        scene.image("error", said - now, colours="PRGn", limits="symmetric", label="error of prediction")
        scene.image("predicted pressure", said, **scale)
