"""`PeriodicField`: a field on a circle, or in a periodic square, that evolves by itself, step by step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from physgym.checks import is_integer, positive
from physgym.envs.burgers_solver import on_grid
from physgym.errors import ConfigError, RejectSample
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.scene.values import field, prediction
from physgym.simulation import Simulation
from physgym.spaces import Array

LARGEST = float(np.finfo(np.float32).max)


class PeriodicField(Simulation[Array, np.int64]):
    """A periodic field that evolves by itself: an episode begins with a random field, and steps let time pass.

    On a circle, or in a square where a subclass says so (``dimensions``).

    The initial field is the parameter ``initial`` of an episode. There is one *action*, 0: to wait. The *observation*
    is the field now. A step after which the field would not be finite is rejected, and leaves it as it is.

    Sample: ``state`` before the step and the target ``next_state``, which is the ``state`` of the next step; (size,)
    or (size, size), float32.

    Args:
        size: Grid points, even, per side; x = 0, length / size, ...
        length: Of the circle, or of the side.
        time_step: Time of one solver step.
        limit: Bound of the initial field.
        simulations_per_step: Solver steps per environment step.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Env declares it so
    sample_roles: ClassVar[dict[str, FieldRole]] = {"state": "input", "next_state": "target"}
    sample_dimensions: ClassVar[dict[str, int]] = {"state": 1, "next_state": 1}
    sample_feedback: ClassVar[dict[str, str]] = {"next_state": "state"}
    dimensions: ClassVar[int] = 1
    title: ClassVar[str]
    time_step: float

    def __init__(
        self,
        *,
        size: int,
        length: float,
        time_step: float,
        limit: float,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        for name, value in (("length", length), ("time_step", time_step), ("limit", limit)):
            positive(name, value)
        if not is_integer(size, 8) or size % 2:
            raise ConfigError(f"size must be an even number of grid points, at least 8, not {size}")
        self.size, self.length, self.time_step, self.limit = size, length, time_step, limit
        shape = (size,) * self.dimensions
        field = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = spaces.Discrete(1)
        self.observation_space = field
        self.sample_space = spaces.Dict({"state": field, "next_state": field})
        self.parameter_space = spaces.Dict({"initial": spaces.Box(-limit, limit, shape, np.float32)})

    @abstractmethod
    def evolve(self, field: Array) -> Array:
        """Return a field after one time step, or raise `RejectSample`; both float64, shaped as the observation."""

    def begin(self, options: dict[str, Any]) -> None:
        """Set the initial field."""
        self._field: Array = np.asarray(self.parameters["initial"], np.float64)
        self._before = self._field
        self._reach = self._reach_before = float(np.abs(self._field).max())

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Let time pass; see `Simulation.step`.

        Args:
            action: 0.
        """
        self._before, self._reach_before = self._field, self._reach
        return super().step(action)

    def advance(self, action: np.int64) -> None:
        """Advance by one time step.

        Raises:
            RejectSample: The field would not be finite, or the solver refuses; it is that before the step again.
        """
        try:
            field = self.evolve(self._field)
            if not float(np.abs(field).max()) < LARGEST:  # also true for nan
                raise RejectSample("the field is not finite, or beyond what float32 holds; begin with a smaller one")
        except RejectSample:  # after solver steps of the same step, perhaps
            self._field, self._reach = self._before, self._reach_before
            raise
        self._take(field)

    def _take(self, field: Array) -> None:
        """Make a field the present one."""
        self._field = field
        self._reach = max(self._reach, float(np.abs(field).max()))

    def observation(self) -> Array:
        """Return the field now, shape (size,) or (size, size), float32."""
        return self._field.astype(np.float32)

    def sample(self) -> Mapping[str, Any]:
        """Return the field before and after the step."""
        return {"state": self._before, "next_state": self._field}

    def load_sample(self, sample: Mapping[str, Array]) -> np.int64:
        """Return 0, after a change to the stored ``state``; one of another grid by its Fourier series.

        A field that is there already, as far as float32 tells, stays, so that a dataset gives itself.
        """
        field = on_grid(sample["state"], self.size)
        if not np.array_equal(field, self.observation()):
            self._field = field.astype(np.float64)
        return np.int64(0)

    def state(self) -> Mapping[str, Any]:
        """Return the ``field``, its largest value so far, ``reach``, and the parameters of the episode."""
        now = {"field": self._field.copy(), "reach": self._reach, "time_step": self.time_step}
        return {**now, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state."""
        values = self.checked_state(state)
        self._field = self._before = values["field"]
        self._reach, self.shown_prediction = float(values["reach"]), {}
        self.parameter_state = values

    def inputs(self, action: np.int64) -> Mapping[str, Any]:
        """Return the field now."""
        return {"state": self._field}

    def adopt(self, action: np.int64, prediction: Mapping[str, Array]) -> None:
        """Take ``next_state`` as the field."""
        self._before = self._field
        self._take(np.array(prediction["next_state"], np.float64))

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Show a predicted field in the pictures, until the episode ends or another comes.

        Args:
            prediction: ``next_state``, shape (size,) or (size, size).
        """
        self.shown_prediction = {"next_state": np.array(prediction["next_state"])}

    def scene(self, scene: Scene) -> None:
        """Declare the field before the step and now, and the prediction as a dashed line."""
        ends = (0.0, self.length * (self.size - 1) / self.size)
        scene.title(self.title)
        scene.curve("before", field("state"), ends=ends, xlabel="x", unit="u", limits="symmetric", group="u")
        scene.curve("now", field("next_state"), ends=ends, unit="u", limits="symmetric", group="u")
        said = prediction("next_state")
        scene.curve("prediction", said, ends=ends, unit="u", limits="symmetric", group="u", ghost=True)
