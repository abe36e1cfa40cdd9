"""`DonkeyCarEnv`: the simulator of DonkeyCar as an environment, by its protocol and without its Python client.

The protocol is implemented and tested against a simulator of our own that is as strict and as faulty as the real one;
the program made with Unity was not run.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import placement
from physgym.adapters.donkey_link import DonkeyLink
from physgym.adapters.donkey_messages import (
    CONFIGURATIONS,
    POSITION,
    ROTATION,
    SCALE,
    configuration,
    distances,
    number_in,
    numbers,
    picture_in,
    position_in,
)
from physgym.adapters.donkey_simulator import DonkeySimulator
from physgym.checks import integer, positive
from physgym.envs.track_camera import HEIGHT, WIDTH
from physgym.errors import ConfigError, SimulatorError
from physgym.real_time import METADATA
from physgym.scene.objects import Scene
from physgym.simulators.client import LentSimulator, described_services
from physgym.spaces import Array

PROTOCOL = "2"
PORT = 9091
PRIVATE_PORT = 9092
STANDING = 0.5  # m/s, below which a car that was reset stands
NEAR = 1.0  # from where the car is to be, in units of the simulator
NODE = 5.0  # seconds within which the simulator says where a node is
FRAMES = 40  # after a reset, within which the first one that belongs to it must come
ANSWERED = 3  # frames within which the simulator shows the action that was sent
SAME = 0.02  # by how much it may show another value
JUMP = 2.0  # m, by which the cross-track error changes at most between two frames, more than the car has moved
DOUBTED = 5  # errors in a row that are taken for broken; then that is where the car is
NOTHING = "none"  # that was hit
ALIVE = 2.0  # seconds in which a simulator sends a frame that others may have afterwards


class DonkeyCarEnv(gymnasium.Env[Array, Array]):
    """A car in a DonkeyCar simulator, with the observation, action and info of `physgym/Track-v0`.

    The simulator runs in real time, about 20 frames a second, and does not repeat itself: datasets are complete and
    safe from kills, and nobody promises their bytes. The frame that is observed after a step is the first one in which
    the simulator shows the action, among the next three; ``info["answered"]`` says whether there was one, since frames
    have no numbers. Frames from before a reset are left out.

    The action is steering and throttle, each from -1 to 1; steering 1 is to the left here, and to the right in the
    simulator. The info has ``pos``, ``cte`` (NaN where the simulator does not send it), ``speed``, ``heading``,
    ``hit``, ``lap_count``, ``last_lap_time`` and ``distance`` (the length of the way driven) in units of the simulator.
    It also has ``answered``, and ``cte_repaired``: how many broken errors were replaced by the last good one since the
    reset. Where they are configured, it has ``image_b`` and ``lidar``, the distances of its rays, shape (sweeps, rays),
    -1 where one has hit nothing.

    An error of the simulator is a `SimulatorError`: the environment is then made again, by `on_error="restart"` of a
    vector environment, which starts the program again where it is given as `command`.

    Args:
        host: Of the simulator.
        port: Of the simulator; with `command` and several environments, of the first one: each has the next port.
        scene: Name of the scene to drive in.
        command: Program and arguments that start the simulator; None where it runs already.
        simulators: Services that lend simulators, in place of `host`, `port` and `command`: of each the argument that
            `physgym simulators serve` prints. The simulator comes from the first one that has a free one, and goes back
            when the environment is closed; one that does not answer any more is ended there.
        timeout: Seconds in which it must start, load the scene and answer.
        max_cte: Error beyond which an episode ends, to either side, in units of the simulator.
        cte_offset: Error around which that is counted.
        car: Fields of the configuration of the car, as in the protocol: ``body_style``, ``car_name``, ...; see
            `physgym.adapters.donkey_messages` for all fields.
        camera: Fields of the configuration of the camera; its size is 160 x 120.
        camera_b: Those of a second camera; None for none.
        lidar: Those of a lidar; None for none.
        racer: Data of the racer: ``racer_name``, ``bio``, ...
        private_key: Name of the environment variable with the key of the simulator's private interface, by which the
            seed of a reset becomes that of its random numbers (cones, lights); None for random numbers of its own.
        private_port: Port of that interface.
        render_mode: "rgb_array" or None.

    Raises:
        ConfigError: An argument is wrong, or there is no such scene.
        SimulatorError: No simulator answers, or it speaks another version of the protocol.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20, METADATA: True}  # noqa: RUF012 - Env declares it so
    action_axes: ClassVar[dict[str, tuple[str, str]]] = {"steering": ("Right", "Left"), "throttle": ("Down", "Up")}
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        scene: str = "generated_road",
        command: Sequence[str] | None = None,
        simulators: Sequence[Mapping[str, Any]] | None = None,
        timeout: float = 60.0,
        max_cte: float = 8.0,
        cte_offset: float = 0.0,
        car: Mapping[str, Any] | None = None,
        camera: Mapping[str, Any] | None = None,
        camera_b: Mapping[str, Any] | None = None,
        lidar: Mapping[str, Any] | None = None,
        racer: Mapping[str, Any] | None = None,
        private_key: str | None = None,
        private_port: int = PRIVATE_PORT,
        render_mode: str | None = None,
    ) -> None:
        integer("port", port, 1, 65535)
        integer("private_port", private_port, 1, 65535)
        if private_key is not None and not os.environ.get(private_key):
            raise ConfigError(f"private_key names the environment variable {private_key!r}, which is not set")
        self._timeout = positive("timeout", timeout)
        self.max_cte, self.cte_offset, self.render_mode = positive("max_cte", max_cte), cte_offset, render_mode
        self._scene = scene
        given = {"racer": racer, "car": car, "camera": camera or {}, "camera_b": camera_b, "lidar": lidar}
        self._configurations = {
            name: configuration(name, fields) for name, fields in given.items() if fields is not None
        }
        self._frame: dict[str, Any] = {}
        self._start: Array | None = None  # where the car is after a reset
        self._driven = _Driven()
        self._simulator: DonkeySimulator | LentSimulator | None = None
        if simulators is not None:
            if command is not None:
                raise ConfigError("simulators come from a service, and command starts one here; leave one of both out")
            self._simulator = LentSimulator(described_services(simulators), timeout)
            host, port = self._simulator.host, self._simulator.port
        elif command is not None:
            port += placement.current().env_index
            self._simulator = DonkeySimulator(command, host, port, timeout)
        self._private: DonkeyLink | None = None
        try:
            self._link = DonkeyLink(host, port, timeout)
        except BaseException:
            self._end_simulator(broken=True)
            raise
        try:
            self._enter()
            if private_key is not None:
                self._private = DonkeyLink(host, private_port, timeout)
                self._private.send("verify", private_key=os.environ[private_key])
                self._private.flush(self._timeout)
        except BaseException:
            self._leave(broken=True)
            raise

    # --- the interface of Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Put the car at its start; the seed is for `np_random` alone but where there is a `private_key`.

        Raises:
            ConfigError: There are options.
            SimulatorError: The simulator does not answer.
        """
        super().reset(seed=seed)
        if options:
            raise ConfigError(f"a DonkeyCar simulator takes no options of a reset, not {sorted(options)}")
        if self._private is not None:
            self._private.arrived(self._timeout)  # events of races, which nobody reads
            if seed is not None:
                self._private.send("set_random_seed", seed=seed % 2**31)
                self._private.flush(self._timeout)
        self._link.send("control", steering=0.0, throttle=0.0, brake=1.0)
        self._link.send("reset_car")
        self._link.flush(self._timeout)
        self._link.arrived(self._timeout)  # frames from before
        for _ in range(FRAMES):
            self._frame = self._telemetry()
            if self._at_start(self._frame):
                break
        else:
            raise SimulatorError(f"the car does not stand at its start {FRAMES} frames after a reset")
        if self._start is None and POSITION[0] in self._frame:
            self._start = position_in(self._frame)
        self._driven = _Driven()
        self._driven.move(self._frame)
        for _ in range(FRAMES):  # the first error may be a broken one
            if "cte" not in self._frame or math.isfinite(self._driven.cte):
                break
            self._frame = self._telemetry()
        return picture_in(self._frame, "image"), self._info(answered=True)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Send an action and wait for the frame that shows it.

        Raises:
            SimulatorError: The simulator does not answer, or has gone.
        """
        steering, throttle = (float(value) for value in np.clip(action, -1.0, 1.0))
        self._driven.hit = NOTHING
        self._link.send("control", steering=-steering, throttle=max(0.0, throttle), brake=max(0.0, -throttle))
        self._link.flush(self._timeout)
        for message in self._link.arrived(self._timeout):  # before the action; laps and collisions count all the same
            self._note(message)
        answered = False
        for _ in range(ANSWERED):
            self._frame = self._telemetry()
            shown = number_in(self._frame, "steering_angle"), number_in(self._frame, "throttle")
            answered = abs(shown[0] + steering) < SAME and abs(shown[1] - max(0.0, throttle)) < SAME
            if answered:
                break
        error = abs(self._driven.cte - self.cte_offset)
        left = error > self.max_cte
        hit = self._driven.hit != NOTHING
        speed = number_in(self._frame, "speed")
        reward = -1.0 if left or hit else (1.0 - error / self.max_cte if error == error else 1.0) * speed
        terminated = bool(left or hit or self._driven.disqualified)
        return picture_in(self._frame, "image"), float(reward), terminated, False, self._info(answered)

    def render(self) -> Array | None:
        """Return the last picture of the camera."""
        return picture_in(self._frame, "image") if self.render_mode == "rgb_array" and self._frame else None

    def close(self) -> None:
        """Leave the scene, close the connection, and end the program that was started or give the simulator back."""
        broken = isinstance(self._simulator, LentSimulator) and not self._alive()
        with contextlib.suppress(SimulatorError):  # it has gone before
            self._link.send("exit_scene")
            self._link.flush(1.0)
        self._leave(broken=broken)

    def scene(self, scene: Scene) -> None:
        """Declare the picture of the camera and a caption, which `update_scene` changes."""
        scene.title("DonkeyCar")
        self._shown = scene.image("camera"), scene.text("caption")

    def update_scene(self, scene: Scene) -> None:
        """Show the last frame."""
        camera, caption = self._shown
        seen, driven = self._frame, self._driven
        camera.update(values=picture_in(seen, "image"))
        error = "" if math.isnan(driven.cte) else f", {driven.cte:+.2f} from the middle"
        caption.update(text=f"speed {number_in(seen, 'speed'):.1f}, lap {driven.laps}{error}")

    # --- what the simulator can do besides

    def set_position(self, position: Sequence[float], rotation: Sequence[float] | None = None) -> None:
        """Put the car somewhere; the way there does not count.

        Args:
            position: In units of ``info["pos"]``, shape (3,).
            rotation: Quaternion x, y, z, w; by default none.

        Raises:
            ConfigError: These are no finite numbers.
            SimulatorError: The simulator does not put it there, as one whose frames have no position, or has gone.
        """
        wanted, before = np.array(numbers("position", position, 3)), self._driven.distance
        place = dict(zip(POSITION, (SCALE * wanted).tolist(), strict=True))
        turned = {} if rotation is None else dict(zip(ROTATION, numbers("rotation", rotation, 4), strict=True))
        self._link.send("set_position", **place, **turned)
        self._link.flush(self._timeout)
        for _ in range(FRAMES):
            self._frame = self._telemetry()
            if np.linalg.norm(position_in(self._frame) - wanted) < NEAR:
                break
        else:
            raise SimulatorError(
                f"the car is not at {wanted.tolist()} {FRAMES} frames after it was put there; a simulator whose "
                "frames have no position does not put it anywhere"
            )
        self._driven.moved(self._frame, before)

    def node_position(self, index: int) -> tuple[Array, Array]:
        """Return where a node of the road is, and its direction.

        Args:
            index: Number of the node, from 0.

        Returns:
            Position in units of ``info["pos"]``, shape (3,), and quaternion x, y, z, w.

        Raises:
            SimulatorError: There is no such node, to which the simulator gives no answer, or it has gone.
        """
        self._link.send("node_position", index=integer("index", index, 0))
        end = time.monotonic() + (seconds := min(self._timeout, NODE))
        while (message := self._link.receive(max(0.0, end - time.monotonic()))) is not None:
            self._note(message)
            if message["msg_type"] == "node_position":
                return position_in(message) / SCALE, np.array([number_in(message, name) for name in ROTATION])
        raise SimulatorError(
            f"the simulator at {self._link.place} does not say where node {index} is within {seconds:g} s; the road "
            "may not have so many"
        )

    def regen_road(self, style: int = 0, seed: int = 0, turn_increment: float = 1.0) -> None:
        """Have another road made, in scenes that make one, such as "generated_road"; reset the environment then.

        Args:
            style: Number of a style.
            seed: Seed of the road.
            turn_increment: How much it bends.

        Raises:
            SimulatorError: The simulator has gone.
        """
        self._link.send(
            "regen_road",
            road_style=integer("style", style, 0),
            rand_seed=integer("seed", seed),
            turn_increment=float(turn_increment),
        )
        self._link.flush(self._timeout)
        self._start = None  # of the road before

    def quit(self) -> None:
        """End the simulator, also one that this environment has not started, and close the environment."""
        with contextlib.suppress(SimulatorError):  # it has gone before
            self._link.send("quit_app")
            self._link.flush(1.0)
        self._leave(broken=True)

    # --- the simulator

    def _alive(self) -> bool:
        """Return whether the simulator still sends frames."""
        with contextlib.suppress(SimulatorError):
            self._link.arrived(ALIVE)  # those from before
            return self._link.receive(ALIVE) is not None
        return False

    def _leave(self, *, broken: bool) -> None:
        for link in (self._link, self._private):
            if link is not None:
                link.close()
        self._end_simulator(broken=broken)

    def _end_simulator(self, *, broken: bool) -> None:
        if isinstance(self._simulator, LentSimulator):
            self._simulator.end(broken=broken)
        elif self._simulator is not None:
            self._simulator.end()

    def _enter(self) -> None:
        """Choose the scene and configure the car."""
        end = time.monotonic() + self._timeout
        self._link.send("get_protocol_version")
        configured = loaded = False
        while not (loaded and configured):
            message = self._message(end, f"load the scene {self._scene!r}")
            self._note(message)
            kind = message["msg_type"]
            if kind == "scene_selection_ready":
                self._link.send("get_scene_names")
            elif kind == "scene_names":
                names = list(message.get("scene_names", ()))
                if self._scene not in names:
                    raise ConfigError(f"the simulator has no scene {self._scene!r}; it has {names}")
                self._link.send("load_scene", scene_name=self._scene)
            elif kind == "need_car_config":
                asked = {"car": configuration("car", {}), **self._configurations}  # without a car it never loads
                self._configurations = {name: asked[name] for name in CONFIGURATIONS if name in asked}
                self._configure()
                configured = True
            elif kind == "car_loaded":
                if not configured:
                    self._configure()
                loaded = configured = True
        self._link.flush(max(0.0, end - time.monotonic()))
        self._frame = self._telemetry()

    def _configure(self) -> None:
        self._link.send("control", steering=0.0, throttle=0.0, brake=1.0)
        for name, fields in self._configurations.items():
            self._link.send(CONFIGURATIONS[name][0], **fields)

    def _message(self, end: float, doing: str) -> dict[str, Any]:
        message = self._link.receive(max(0.0, end - time.monotonic()))
        if message is None:
            alive = "" if self._simulator is None or self._simulator.running else "; its program has ended"
            raise SimulatorError(
                f"the simulator at {self._link.place} did not {doing} within {self._timeout:g} s{alive}. Give it "
                "longer with `timeout`, or restart it"
            )
        return message

    def _telemetry(self) -> dict[str, Any]:
        """Return the next frame; take note of what comes between frames."""
        end = time.monotonic() + self._timeout
        while True:
            message = self._message(end, "send a frame")
            self._note(message)
            if message["msg_type"] == "telemetry":
                return message

    def _note(self, message: Mapping[str, Any]) -> None:
        """Take a message into the account of the episode."""
        kind = message["msg_type"]
        if kind == "telemetry":
            self._driven.move(message)
        elif kind == "cross_start":
            self._driven.lap(number_in(message, "lap_time"))
        elif kind == "DQ":
            self._driven.disqualified = True
        elif kind == "protocol_version" and str(message.get("version")) != PROTOCOL:
            raise SimulatorError(
                f"the simulator at {self._link.place} speaks version {message.get('version')} of the protocol, this "
                f"environment {PROTOCOL}; take a simulator of v21.07.24 or later"
            )

    def _at_start(self, frame: Mapping[str, Any]) -> bool:
        if number_in(frame, "speed") > STANDING:
            return False
        return (
            self._start is None
            or POSITION[0] not in frame
            or bool(np.linalg.norm(position_in(frame) - self._start) < NEAR)
        )

    def _info(self, answered: bool) -> dict[str, Any]:
        frame, driven = self._frame, self._driven
        info: dict[str, Any] = {
            "pos": position_in(frame),
            "cte": driven.cte,
            "speed": number_in(frame, "speed"),
            "heading": math.radians(number_in(frame, "yaw")),
            "hit": driven.hit,
            "lap_count": driven.laps,
            "last_lap_time": driven.lap_time,
            "distance": driven.distance,
            "answered": answered,
            "cte_repaired": driven.repaired,
        }
        if "camera_b" in self._configurations:
            info["image_b"] = picture_in(frame, "imageb" if "imageb" in frame else "image_b")
        if (fields := self._configurations.get("lidar")) is not None:
            info["lidar"] = distances(frame.get("lidar"), fields)
        return info


class _Driven:
    """Account of an episode: its errors, laps and way.

    Attributes:
        cte: The last error that is not broken; NaN before two in a row agree.
        repaired: How many were.
        laps: Laps that were completed.
        lap_time: Seconds of the last one.
        distance: Length of the way.
        disqualified: Whether the simulator has sent the car away.
        hit: What the car has run into since the last observation, which the simulator says once.
    """

    def __init__(self) -> None:
        self.cte = math.nan
        self.repaired = self.laps = self._doubted = 0
        self.lap_time = self.distance = 0.0
        self.disqualified = False
        self.hit = NOTHING
        self._last: Array | None = None
        self._first = math.nan  # the error before, while there is none that is known to be good

    def lap(self, seconds: float) -> None:
        """Count a lap."""
        self.laps, self.lap_time = self.laps + 1, seconds

    def moved(self, frame: Mapping[str, Any], before: float) -> None:
        """Take in that the car was put where a frame shows it, and had driven so far before."""
        self.distance = before
        self._last, self._first, self.cte, self._doubted = position_in(frame), math.nan, math.nan, 0

    def move(self, frame: Mapping[str, Any]) -> None:
        """Take in a frame."""
        moved = 0.0
        if POSITION[0] in frame:
            position = position_in(frame)
            moved = 0.0 if self._last is None else float(np.linalg.norm(position - self._last))
            self._last = position
        self.distance += moved
        if (hit := str(frame.get("hit", NOTHING))) != NOTHING:
            self.hit = hit
        if "cte" not in frame:
            return
        error = number_in(frame, "cte")
        if math.isnan(self.cte):
            if abs(error - self._first) <= moved + JUMP:
                self.cte = error
            elif math.isfinite(self._first):
                self.repaired += 1
            self._first = error
            return
        good = math.isfinite(error) and abs(error - self.cte) <= moved + JUMP
        if not good and self._doubted < DOUBTED:  # one that jumps and stays is where the car is
            self._doubted, self.repaired = self._doubted + 1, self.repaired + 1
        elif math.isfinite(error):
            self.cte, self._doubted = error, 0
