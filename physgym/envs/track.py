"""`Track`: a car on a random closed road, seen by its camera or by five numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from physgym.checks import at_least, integer, one_of, positive
from physgym.envs.track_camera import HEIGHT, WIDTH, RoadCamera
from physgym.envs.track_course import SEARCHED, SPACING, Course, random_course
from physgym.errors import ConfigError, SampleError
from physgym.sample import FieldRole
from physgym.scene.objects import Scene
from physgym.simulation import Simulation
from physgym.spaces import Array

Seen = Literal["camera", "state"]

WHEELBASE = 2.5  # m
MAX_STEER = 0.5  # radians of the front wheels: bends of 4.6 m
ACCELERATION = 4.0  # m/s² at full throttle
BRAKING = 8.0  # m/s² at full brake
DRAG = 0.3  # 1/s: the top speed is 13.3 m/s
AHEAD = (6.0, 15.0)  # m, where the state looks at the curvature
COURSES = 1_000_000  # numbers of courses to draw from
LARGEST = 2**63 - 1  # number of a course, or the one after it
HALF_WIDTH = 4.0  # m, of the asphalt
# s, in which the fastest car makes half the way on which its place on the road is looked for
LONGEST_STEP = round(SEARCHED * SPACING / 2 * DRAG / ACCELERATION, 2)


class Track(Simulation[Array, Array]):
    """A car on a closed road with random bends: a kinematic bicycle, whose wheels do not slip.

    The parameter of an episode is the number of its course, ``track``, which names the same road everywhere; it is
    drawn from `tracks` unless ``reset(options={"parameters": {"track": 17}})`` gives it. The car begins at rest on the
    centre line. Under a constant action a step is a circular arc, so that the turning circles are exact for every time
    step.

    The *action* is steering (1 is to the left) and throttle (below 0 it brakes), each from -1 to 1, shape (2,). The
    *observation* is the picture of the camera, shape (120, 160, 3), uint8, or the state, shape (5,), float32. The state
    has distance from the centre line in m, positive to the left, angle to it in radians, speed in m/s, curvature of the
    line 6 m and 15 m ahead in 1/m.

    The reward of a step is the speed as a part of the highest one, times a factor that falls from 1 in the middle of
    the road to 0 at `max_cte`. It is -1 where the car leaves the road or is stuck. Then the episode is terminated, and
    also after the last of the `laps`.

    The info has ``pos``, shape (3,), in m, ``cte``, the distance from the centre line in m, ``speed`` in m/s and
    ``heading`` in radians. It also has ``hit`` ("grass" off the asphalt, else "none"), ``lap_count``, ``last_lap_time``
    in s (0 before there is one), and ``distance``, along the centre line since the start, in m.

    Sample: ``state`` before the step, ``action``, and the target ``next_state``. For pictures as samples, make
    transitions of it: `RecordTransition`.

    Args:
        observation: What is observed, "camera" or "state".
        tracks: First number of the courses to draw, and the one after the last.
        length: Of the centre line in m.
        radius: The least one of any bend in m.
        max_cte: Distance from `cte_offset` in m beyond which the car has left the road.
        cte_offset: Distance from the centre line, positive to the left, around which that is counted, in m.
        stuck_distance: The car is stuck if it gains less than this along the line in `stuck_steps` steps, in m; 0 for
            never.
        stuck_steps: Over how many solver steps that is counted, after so many from the beginning.
        laps: End after so many laps; 0 for never.
        time_step: Time of one solver step in s, 0.45 at the most.
        simulations_per_step: Solver steps per environment step, under the same action.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is out of range, or no course has such bends.
    """

    time_step: float
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Env declares it so
    action_axes: ClassVar[dict[str, tuple[str, str]]] = {"steering": ("Right", "Left"), "throttle": ("Down", "Up")}
    sample_roles: ClassVar[dict[str, FieldRole]] = {"state": "input", "action": "input", "next_state": "target"}
    sample_units: ClassVar[dict[str, str]] = {
        "state": "m, rad, m/s, 1/m, 1/m",
        "action": "",
        "next_state": "m, rad, m/s, 1/m, 1/m",
    }
    sample_feedback: ClassVar[dict[str, str]] = {"next_state": "state"}

    def __init__(
        self,
        *,
        observation: Seen = "camera",
        tracks: tuple[int, int] = (0, COURSES),
        length: float = 250.0,
        radius: float = 12.0,
        max_cte: float = HALF_WIDTH,
        cte_offset: float = 0.0,
        stuck_distance: float = 1.0,
        stuck_steps: int = 100,
        laps: int = 0,
        time_step: float = 0.05,
        simulations_per_step: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(simulations_per_step=simulations_per_step, render_mode=render_mode)
        one_of("observation", observation, ("camera", "state"))
        for name, value in (("length", length), ("radius", radius), ("max_cte", max_cte), ("time_step", time_step)):
            positive(name, value)
        at_least("stuck_distance", stuck_distance, 0)
        if time_step > LONGEST_STEP:
            raise ConfigError(
                f"time_step {time_step} s is longer than {LONGEST_STEP} s, and the car would lose its place; "
                "give a shorter one, and more simulations_per_step"
            )
        if not abs(cte_offset) < max_cte:
            raise ConfigError(f"cte_offset {cte_offset} m ends every episode at once with a max_cte of {max_cte} m")
        numbers = [integer("tracks", one, 0, LARGEST) for one in tracks] if isinstance(tracks, (tuple, list)) else []
        if len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ConfigError(f"tracks {tracks} are none; give the first number and the one after the last")
        first, end = numbers
        self.length, self.radius = length, radius
        self.max_cte, self.cte_offset = max_cte, cte_offset
        self.laps = integer("laps", laps, 0)
        self.stuck_distance, self.stuck_steps = stuck_distance, integer("stuck_steps", stuck_steps, 1)
        self.time_step = time_step
        self._seen = observation
        self._course: Course | None = None
        self._camera: RoadCamera | None = None
        self._number = -1  # of the course at hand
        self._course_of(first)  # an impossible road is an error of the constructor

        state = spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.parameter_space = spaces.Dict({"track": spaces.Discrete(end - first, start=first)})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = state if observation == "state" else spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.sample_space = spaces.Dict({"state": state, "action": self.action_space, "next_state": state})

    @property
    def course(self) -> Course:
        """Return the road of the episode."""
        assert self._course is not None
        return self._course

    def begin(self, options: dict[str, Any]) -> None:
        """Put the car at rest on the centre line.

        Raises:
            ConfigError: There are options other than parameters.
        """
        if options:
            raise ConfigError(f"options {sorted(options)} are unknown; reset takes 'parameters': ['track']")
        course = self._course_of(int(self.parameters["track"]))
        x, y = course.tangents[0]
        self._position, self._heading, self._speed = course.points[0].copy(), math.atan2(y, x), 0.0
        self._near, self._along, self._cte = course.place(self._position)
        self._distance, self._laps, self._lap_time, self._lap_begin, self._steps = 0.0, 0, 0.0, 0.0, 0
        self._passed = np.zeros(self.stuck_steps + 1)  # distances before and after the last steps, in a ring
        self._action = np.zeros(2)
        self._before = self._now = self._observed()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Drive; see `Simulation.step`.

        Args:
            action: Steering and throttle, shape (2,), float32.
        """
        self._before = self._now
        return super().step(action)

    def advance(self, action: Array) -> None:
        """Drive for one time step; values beyond the bounds count as the bounds.

        Raises:
            SampleError: The action is not two numbers.
        """
        if np.shape(action) != (2,) or np.isnan(action).any():
            raise SampleError(f"the action of a track is two numbers, steering and throttle, not {action}")
        steering, throttle = (min(1.0, max(-1.0, float(value))) for value in action)
        self._action = np.array([steering, throttle])
        speed, self._speed = self._speed, self._next_speed(throttle)
        way = (speed + self._speed) / 2 * self.time_step
        turn = way * math.tan(MAX_STEER * steering) / WHEELBASE
        # the chord of an arc points along the middle of the directions at its ends
        chord = way * (math.sin(turn / 2) / (turn / 2) if turn else 1.0)
        direction = self._heading + turn / 2
        self._position = self._position + chord * np.array([math.cos(direction), math.sin(direction)])
        self._heading = _angle(self._heading + turn)
        along, length = self._along, self.course.length
        self._near, self._along, self._cte = self.course.place(self._position, self._near)
        self._distance += (self._along - along + length / 2) % length - length / 2
        self._steps += 1
        self._passed[self._steps % len(self._passed)] = self._distance
        if self._distance >= (self._laps + 1) * length:
            now = self._steps * self.time_step
            self._laps, self._lap_time, self._lap_begin = self._laps + 1, now - self._lap_begin, now
        self._now = self._observed()

    def _next_speed(self, throttle: float) -> float:
        force = (ACCELERATION if throttle > 0 else BRAKING) * throttle
        # exact under a constant force and a drag in proportion to the speed
        kept = math.exp(-DRAG * self.time_step)
        return max(0.0, self._speed * kept + force * (1 - kept) / DRAG)

    def _observed(self) -> Array:
        """Return the state, shape (5,), float64."""
        x, y = self.course.tangents[self._near]
        bends = [self.course.ahead(self._along, distance) for distance in AHEAD]
        return np.array([self._cte, _angle(self._heading - math.atan2(y, x)), self._speed, *bends])

    def observation(self) -> Array:
        """Return the picture of the camera, or the state."""
        if self._seen == "state":
            return self._now.astype(np.float32)
        return self.picture()

    def picture(self) -> Array:
        """Return what the driver sees, shape (120, 160, 3), uint8, RGB; for any kind of observation."""
        if self._camera is None:
            self._camera = RoadCamera(self.course, HALF_WIDTH)
        return self._camera.picture(self._position, self._heading)

    def scene(self, scene: Scene) -> None:
        """Declare the road from above and the car on it, which `update_scene` moves."""
        scene.title("track")
        self._lines = {
            name: scene.lines(name, colour=colour, line_width=width)
            for name, colour, width in (
                ("left edge", "#303030", 2.0),
                ("right edge", "#303030", 2.0),
                ("centre line", "#d0a020", 1.0),
            )
        }
        self._car = scene.mesh("car", cells=[[0, 1, 2, 3]], cell="quad", colour="#c03030")
        self._caption = scene.text("caption")
        self._drawn = -1  # the course whose lines the scene has

    def update_scene(self, scene: Scene) -> None:
        """Move the car, and lay the road of a new episode."""
        if self._drawn != self._number:
            course = self.course
            left = np.stack([-course.tangents[:, 1], course.tangents[:, 0]], 1)
            for name, offset in (("left edge", HALF_WIDTH), ("right edge", -HALF_WIDTH), ("centre line", 0.0)):
                line = course.points + offset * left
                self._lines[name].update(points=np.concatenate([line, line[:1]]))
            self._drawn = self._number
        forward = np.array([math.cos(self._heading), math.sin(self._heading)])
        aside = np.array([-forward[1], forward[0]])
        corners = [(0.8, 0.35), (0.8, -0.35), (-0.4, -0.35), (-0.4, 0.35)]  # of its length; larger than life
        self._car.update(points=np.array([self._position + 6.0 * (a * forward + b * aside) for a, b in corners]))
        self._caption.update(text=f"{self._speed:.1f} m/s, lap {self._laps}, {self._cte:+.2f} m from the middle")

    def sample(self) -> Mapping[str, Any]:
        """Return the state before and after the step, and the action between them."""
        return {"state": self._before, "action": self._action, "next_state": self._now}

    def outcome(self) -> tuple[float, bool]:
        """Return the reward, and whether the car has left the road, is stuck, or has driven all laps."""
        error = abs(self._cte - self.cte_offset)
        if error > self.max_cte or self._stuck:
            return -1.0, True
        reward = self._speed * DRAG / ACCELERATION * (1 - error / self.max_cte)
        return reward, 0 < self.laps <= self._laps

    @property
    def _stuck(self) -> bool:
        if not self.stuck_distance or self._steps <= self.stuck_steps:
            return False
        oldest = self._passed[(self._steps + 1) % len(self._passed)]  # before the last stuck_steps
        return bool(self._distance - oldest < self.stuck_distance)

    def info(self) -> dict[str, Any]:
        """Return where the car is and what it has driven."""
        return {
            "pos": np.array([*self._position, 0.0]),
            "cte": self._cte,
            "speed": self._speed,
            "heading": self._heading,
            "hit": "grass" if abs(self._cte) > HALF_WIDTH else "none",
            "lap_count": self._laps,
            "last_lap_time": self._lap_time,
            "distance": self._distance,
        }

    def state(self) -> Mapping[str, Any]:
        """Return where the car is and what counts of the way behind it."""
        return {
            "position": self._position.copy(),
            "heading": self._heading,
            "speed": self._speed,
            "near": self._near,
            "distance": self._distance,
            "passed": self._passed.copy(),
            "steps": self._steps,
            "lap_count": self._laps,
            "last_lap_time": self._lap_time,
            "lap_begin": self._lap_begin,
            "time_step": self.time_step,
            **self.parameter_state,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state, on the road that it names."""
        values = self.checked_state(state)
        self.parameter_state = values
        self._course_of(int(self.parameters["track"]))
        self._position, self._passed = values["position"], values["passed"]
        self._heading, self._speed, self._distance, self._lap_time, self._lap_begin = (
            float(values[name]) for name in ("heading", "speed", "distance", "last_lap_time", "lap_begin")
        )
        self._steps, self._laps = int(values["steps"]), int(values["lap_count"])
        self._near, self._along, self._cte = self.course.place(self._position, int(values["near"]))
        self._before = self._now = self._observed()

    def inputs(self, action: Array) -> Mapping[str, Any]:
        """Return the state now and the action."""
        return {"state": self._now, "action": action}

    def sample_action(self, rng: np.random.Generator) -> Array:
        """Return an action of a driver who follows the road with an unsteady hand, so that a course is seen whole.

        Args:
            rng: What it is drawn from.
        """
        error, angle, speed, bend, _ = self._now
        wanted = bend - 0.02 * error - 0.4 * angle  # curvature that brings the car back to the line
        steering = math.atan(wanted * WHEELBASE) / MAX_STEER + rng.normal(0.0, 0.3)
        throttle = 0.3 * (7.0 - speed) + rng.normal(0.0, 0.3)
        action: Array = np.clip([steering, throttle], -1.0, 1.0).astype(np.float32)
        return action

    def _course_of(self, number: int) -> Course:
        """Return a course by its number; the last one is kept, and its picture from above with it."""
        if self._course is None or number != self._number:
            # so far from one another, two parts of the road are never mixed up
            self._course = random_course(np.random.default_rng(number), self.length, self.radius, 4 * HALF_WIDTH)
            self._camera, self._number = None, number
        return self._course


def _angle(angle: float) -> float:
    """Return an angle in radians from -pi to pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
