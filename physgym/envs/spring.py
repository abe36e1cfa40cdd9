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
from physgym.scene.frames import figure_frame, new_figure, style
from physgym.scene.style import GHOST_COLOUR, MESH_COLOUR
from physgym.simulation import Simulation
from physgym.spaces import Array

Range = tuple[float, float]

PARAMETERS = ("stiffness", "mass", "friction")


class Spring(Simulation[Array, Array]):
    """Damped mass and spring under an external force: m x'' + c x' + k x = F.

    The parameters of an episode are stiffness, mass, friction and the initial position and velocity, each uniform in
    its range unless ``reset(options={"parameters": {...}})`` gives it; its length is that of Gymnasium's time limit.
    The force is constant during a step, so the solver's matrix exponential is exact for any time step and any damping:
    n ``simulations_per_step`` equal one step of n times ``time_step``.

    The *action* is the force in N, shape (1,). The *observation* is position, velocity, stiffness, mass, friction,
    shape (5,): with the force all that the next state depends on. The reward is minus the squared position in m², so
    that bringing the mass to rest is a small control problem.

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
        self._force = 0.0
        self._propagator = propagator(value["stiffness"], value["mass"], value["friction"], self.time_step)
        self._positions = [float(self._state[0])]
        self._prediction: Array | None = None

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
        force = float(action[0])
        state = self._propagator @ np.array([*self._state, force])
        if not np.isfinite(state).all():
            raise RejectSample(f"the state is not finite after a force of {force} N")
        self._force = force
        self._state = state

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
        self._positions, self._prediction = [float(self._state[0])], None
        self.parameter_state = values | {f"parameters/{name}": values[name] for name in PARAMETERS}

    def inputs(self, action: Array) -> Mapping[str, Any]:
        """Return the state now and what the next one depends on."""
        return {"state": self._state, "parameters": self._parameters, "force": action}

    def adopt(self, action: Array, prediction: Mapping[str, Array]) -> None:
        """Take ``next_state`` as the state."""
        self._before, self._force = self._state, float(action[0])
        self._state = np.array(prediction["next_state"], np.float64)
        if self.render_mode is not None:
            self._positions.append(float(self._state[0]))

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Show a predicted state in the pictures, until the episode ends or another comes.

        Args:
            prediction: ``next_state``, shape (2,): position in m, velocity in m/s.
        """
        self._prediction = np.array(prediction["next_state"])

    def render(self) -> Array | None:
        """Draw the mass on its spring above the trace of its position; a prediction in outline: uint8 (480, 640, 3)."""
        if self.render_mode is None:
            return None
        reach = 1.2 * max(np.abs(self._positions).max(), *np.abs(self.ranges["position"]))
        with style():
            figure = new_figure()
            scene, trace = figure.subplots(2, 1, height_ratios=(2, 3))
            self._draw_scene(scene, reach)
            self._draw_trace(trace, reach)
            return figure_frame(figure)

    def _draw_scene(self, axes: Any, reach: float, coils: int = 8) -> None:
        """Draw wall, spring, mass, force and prediction; lengths in m, the longest force arrow as long as ``reach``."""
        position, side, wall = float(self._state[0]), 0.3 * reach, -1.8 * reach
        ends = np.linspace(wall, position - side / 2, 2 * coils + 2)
        axes.plot(ends, 0.25 * side * np.array([0, *([1, -1] * coils), 0]), color="#606060", linewidth=1.2)
        axes.axvline(wall, color="black", linewidth=5)
        axes.axhline(-side / 2, color="#808080", linewidth=1.0)
        axes.axvline(0.0, color="#b0b0b0", linewidth=0.8, linestyle=":")
        axes.add_patch(_square(position, side, facecolor=MESH_COLOUR, edgecolor="black"))
        if self._prediction is not None:
            ghost = {"edgecolor": GHOST_COLOUR, "linestyle": "--", "linewidth": 1.6}
            axes.add_patch(_square(float(self._prediction[0]), side, fill=False, **ghost))
        tip = position + self._force / self.max_force * reach
        axes.annotate("", (tip, 0.8 * side), (position, 0.8 * side), arrowprops={"arrowstyle": "->"})
        axes.text(position, side, f"{self._force:+.2f} N", ha="center", fontsize="small")
        stiffness, mass, friction = self._parameters
        axes.set_title(f"k = {stiffness:.3g} N/m, m = {mass:.3g} kg, c = {friction:.3g} N s/m")
        axes.set(xlim=(wall, 1.8 * reach), ylim=(-0.6 * side, 1.5 * side), aspect="equal")
        axes.set_axis_off()

    def _draw_trace(self, axes: Any, reach: float) -> None:
        step = self.time_step * self.simulations_per_step
        seconds = np.arange(len(self._positions)) * step
        axes.plot(seconds, self._positions, linewidth=1.6)
        axes.plot(seconds[-1], self._positions[-1], "o", color="#1f77b4", markersize=4)
        if self._prediction is not None:
            axes.plot(seconds[-1], self._prediction[0], "o", color=GHOST_COLOUR, fillstyle="none", label="prediction")
            axes.legend(loc="upper right")
        axes.set(xlabel="time [s]", ylabel="position [m]", ylim=(-reach, reach))
        axes.set_xlim(0, 1.05 * max(seconds[-1], 10 * step))
        axes.grid(alpha=0.3)


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


def _square(centre: float, side: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((centre - side / 2, -side / 2), side, side, **style)


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
