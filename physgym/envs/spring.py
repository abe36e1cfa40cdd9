"""`Spring`: a mass on a damped spring, the smallest complete simulation and the tutorial case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from scipy.linalg import expm

from physgym.checks import positive
from physgym.errors import ConfigError, RejectSample
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.scene.style import Style
from physgym.scene.values import field, prediction, stack
from physgym.simulation import Simulation
from physgym.spaces import Array

Range = tuple[float, float]

PARAMETERS = ("stiffness", "mass", "friction")
COILS = 8  # of the spring in pictures


class Spring(Simulation[Array, Array]):
    """Damped mass and spring under an external force: m x'' + c x' + k x = F.

    The parameters of an episode are stiffness, mass, friction and the initial position and velocity, each uniform in
    its range unless ``reset(options={"parameters": {...}})`` gives it; its length is that of Gymnasium's time limit.
    The force is constant during a step, so the solver's matrix exponential is exact for any time step and any damping:
    n ``simulations_per_step`` equal one step of n times ``time_step``.

    The *action* is the force in N, shape (1,). The *observation* is position, velocity, stiffness, mass, friction,
    shape (5,): with the force all that the next state depends on. The reward is minus the squared position in m², so
    that bringing the mass to rest is a small control problem.

    In a run a person may add a force by the slider ``push`` of its window, and stop the mass by the button ``stop``.
    The whole force stays within its bound.

    Sample: ``state`` (position, velocity) before the step, ``parameters`` (stiffness, mass, friction), ``force``, and
    the target ``next_state``.

    Args:
        stiffness: Lowest and highest k in N/m.
        mass: Lowest and highest m in kg.
        friction: Lowest and highest c in N s/m.
        position: Lowest and highest initial displacement in m.
        velocity: Lowest and highest initial velocity in m/s.
        max_force: Bound of the force in N.
        time_step: Time of one solver step in s.
        simulations_per_step: Solver steps per environment step, under the same force.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range.
    """

    time_step: float
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Env declares it so
    sample_roles: ClassVar[dict[str, FieldRole]] = {
        "state": "input",
        "parameters": "input",
        "force": "input",
        "next_state": "target",
    }
    sample_units: ClassVar[dict[str, str]] = {
        "state": "m, m/s",
        "parameters": "N/m, kg, N s/m",
        "force": "N",
        "next_state": "m, m/s",
    }
    sample_feedback: ClassVar[dict[str, str]] = {"next_state": "state"}
    parameter_units: ClassVar[dict[str, str]] = {
        "stiffness": "N/m",
        "mass": "kg",
        "friction": "N s/m",
        "position": "m",
        "velocity": "m/s",
    }

    def __init__(
        self,
        *,
        stiffness: Range = (5.0, 20.0),
        mass: Range = (0.5, 2.0),
        friction: Range = (0.1, 2.0),
        position: Range = (-1.0, 1.0),
        velocity: Range = (-2.0, 2.0),
        max_force: float = 5.0,
        time_step: float = 0.1,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        self.ranges = {
            "stiffness": _check_range("stiffness", stiffness, above_zero=True),
            "mass": _check_range("mass", mass, above_zero=True),
            "friction": _check_range("friction", friction, lowest=0.0),
            "position": _check_range("position", position),
            "velocity": _check_range("velocity", velocity),
        }
        for name, value in (("max_force", max_force), ("time_step", time_step)):
            positive(name, value)
        self.max_force = max_force
        self.time_step = time_step

        low, high = np.array([self.ranges[name] for name in PARAMETERS], np.float32).T
        state = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        parameters = spaces.Box(low, high)
        self.parameter_space = spaces.Dict(
            [(name, spaces.Box(*bounds, (), np.float64)) for name, bounds in self.ranges.items()]
        )
        self.action_space = spaces.Box(-max_force, max_force, (1,), np.float32)
        self.observation_space = spaces.Box(
            np.concatenate([state.low, parameters.low]), np.concatenate([state.high, parameters.high])
        )
        self.sample_space = spaces.Dict(
            {"state": state, "parameters": parameters, "force": self.action_space, "next_state": state}
        )

    def begin(self, options: dict[str, Any]) -> None:
        """Set the initial state, which is among the parameters.

        Raises:
            ConfigError: There are options other than parameters.
        """
        if options:
            raise ConfigError(f"options {sorted(options)} are unknown; reset takes 'parameters': {list(self.ranges)}")
        value = self.parameters
        self._parameters = np.array([value[name] for name in PARAMETERS], np.float64)
        self._state = np.array([value["position"], value["velocity"]], np.float64)
        self._before = self._state
        self._force = self._push = 0.0
        self._propagator = propagator(value["stiffness"], value["mass"], value["friction"], self.time_step)
        self._positions = [float(self._state[0])]

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance under a constant force; see `Simulation.step`.

        Args:
            action: Force in N, shape (1,), float32.
        """
        self._before = self._state
        result = super().step(action)
        if self.render_mode is not None:
            self._positions.append(float(self._state[0]))
        return result

    def advance(self, action: Array) -> None:
        """Advance by one time step.

        Raises:
            RejectSample: The state would not be finite; it stays as it is.
        """
        force = self._pushed(action)
        state = self._propagator @ np.array([*self._state, force])
        if not np.isfinite(state).all():
            raise RejectSample(f"the state is not finite after a force of {force} N")
        self._force = force
        self._state = state

    def take_input(self, name: str, value: Any) -> None:
        """Add a force in N to those of the steps to come (``push``), or stop the mass where it is (``stop``)."""
        if name == "push":
            self._push = value
        else:
            self._state = np.array([self._state[0], 0.0])

    def _pushed(self, action: Array) -> float:
        """Return the force of an action with that of a person, in N."""
        force = float(action[0])
        return min(max(force + self._push, -self.max_force), self.max_force) if self._push else force

    def observation(self) -> Array:
        """Return the position, velocity, stiffness, mass, friction: shape (5,), float32."""
        return np.concatenate([self._state, self._parameters]).astype(np.float32)

    def sample(self) -> Mapping[str, Any]:
        """Return the state before and after the step, and what it depends on."""
        return {
            "state": self._before,
            "parameters": self._parameters,
            "force": np.array([self._force]),
            "next_state": self._state,
        }

    def outcome(self) -> tuple[float, bool]:
        """Return minus the squared position in m²; an episode has no terminal state."""
        return -float(self._state[0] ** 2), False

    def load_sample(self, sample: Mapping[str, Array]) -> Array:
        """Return the stored ``force``, after a change to the stored ``state``.

        A state in which the mass is already, as far as float32 tells, stays, so that a dataset gives itself.
        """
        if not np.array_equal(sample["state"], self._state.astype(np.float32)):
            self._state = np.array(sample["state"], np.float64)
        return np.asarray(sample["force"], np.float32)

    def state(self) -> Mapping[str, Any]:
        """Return ``state`` (position, velocity), the last ``force``, parameters that act, and all of the episode."""
        constants = dict(zip(PARAMETERS, self._parameters.tolist(), strict=True))
        now = {"state": self._state.copy(), "force": self._force, "time_step": self.time_step}
        return {**now, **constants, **self.parameter_state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state; the trace in the pictures begins there."""
        values = self.checked_state(state)
        self._state = self._before = values["state"]
        self._force = float(values["force"])
        self._parameters = np.array([values[name] for name in PARAMETERS], np.float64)
        stiffness, mass, friction = self._parameters.tolist()
        self._propagator = propagator(stiffness, mass, friction, self.time_step)
        self._positions, self.shown_prediction = [float(self._state[0])], {}
        self.parameter_state = values | {f"parameters/{name}": values[name] for name in PARAMETERS}

    def inputs(self, action: Array) -> Mapping[str, Any]:
        """Return the state now and what the next one depends on."""
        force = np.array([self._pushed(action)], np.float32) if self._push else action
        return {"state": self._state, "parameters": self._parameters, "force": force}

    def adopt(self, action: Array, prediction: Mapping[str, Array]) -> None:
        """Take ``next_state`` as the state."""
        self._before, self._force = self._state, self._pushed(action)
        self._state = np.array(prediction["next_state"], np.float64)
        if self.render_mode is not None:
            self._positions.append(float(self._state[0]))

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Show a predicted state in the pictures, until the episode ends or another comes.

        Args:
            prediction: ``next_state``, shape (2,): position in m, velocity in m/s.
        """
        self.shown_prediction = {"next_state": np.array(prediction["next_state"])}

    def scene(self, scene: Scene) -> None:
        """Declare wall, spring, mass, force and prediction; where pictures are made, the trace of the position."""
        reach = 1.2 * float(np.abs(self.ranges["position"]).max()) or 1.0
        wall, side, end = -1.8 * reach, 0.3 * reach, 1.8 * reach
        square = side / 2 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        x, said = field("next_state")[0], prediction("next_state")[0]
        along = np.linspace(0.0, 1.0, 2 * COILS + 2)
        coils = 0.25 * side * np.array([0, *([1, -1] * COILS), 0])
        plain: Style = {"colour": "#808080", "fixed": True}
        scene.lines("ground", [[wall, -side / 2], [end, -side / 2]], **plain)
        scene.lines("rest", [[0.0, -side / 2], [0.0, 1.2 * side]], **plain)
        scene.lines("wall", [[wall, -side / 2], [wall, 1.2 * side]], colour="#000000", line_width=8, fixed=True)
        scene.lines("spring", stack(wall + (x - (wall + side / 2)) * along, coils), colour="#606060", line_width=2)
        scene.mesh("mass", stack(x, 0.0) + square, [[0, 1, 2, 3]], fixed=True)
        scene.mesh("predicted", stack(said, 0.0) + square, [[0, 1, 2, 3]], ghost=True, line_width=3, fixed=True)
        pull = field("force")[0]
        scene.arrows("force", stack(x, 0.8 * side), stack(pull * (reach / self.max_force), 0.0), scale=1.0)
        scene.text("strength", "{:+.2f} N", values=pull, point=stack(x, side))
        scene.text("parameters", "k = {:.3g} N/m, m = {:.3g} kg, c = {:.3g} N s/m", values=field("parameters"))
        scene.slider("push", -self.max_force, self.max_force, unit="N", keys=("Left", "Right"))
        scene.button("stop", key="s")
        if self.render_mode is not None:
            self._trace = scene.curve("position", xlabel="time [s]", unit="m", limits="symmetric")

    def update_scene(self, scene: Scene) -> None:
        """Draw the trace to where the mass is."""
        if self.render_mode is not None:
            step = self.time_step * self.simulations_per_step
            self._trace.update(values=self._positions, x=np.arange(len(self._positions)) * step)


def propagator(stiffness: float, mass: float, friction: float, time_step: float) -> Array:
    """Return the exact map of (position, velocity, force) to (position, velocity) over a time of constant force.

    Args:
        stiffness: k in N/m.
        mass: m in kg.
        friction: c in N s/m.
        time_step: Time in s.

    Returns:
        Matrix, shape (2, 3), float64: the upper rows of the exponential of the system augmented by the force.
    """
    system = np.zeros((3, 3))
    system[0, 1] = 1.0
    system[1] = np.array([-stiffness, -friction, 1.0]) / mass
    exponential: Array = expm(system * time_step)
    return exponential[:2]


def _check_range(name: str, bounds: Range, *, lowest: float = -np.inf, above_zero: bool = False) -> Range:
    try:
        low, high = (float(x) for x in bounds)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ConfigError(f"{name} must be two finite numbers, the lower first, not {bounds}")
    if low < lowest or (above_zero and low <= 0):
        raise ConfigError(f"{name} must be {'positive' if above_zero else 'at least 0'}, not {bounds}")
    return low, high
