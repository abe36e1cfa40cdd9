"""A simulator of DonkeyCar for tests and examples: as strict and as faulty as the real one, with the car of Track-v0.

`FakeDonkey` runs it in a thread; ``python -m physgym.testing.fake_donkey --port N`` as a program.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import re
import select
import socket
import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

import numpy as np

from physgym.adapters.donkey_messages import CONFIGURATIONS, POSITION, ROTATION, SCALE
from physgym.envs.track import Track

SCENES = ("generated_road", "warehouse", "mountain_track")
FIELDS = {kind: tuple(fields) for kind, fields in CONFIGURATIONS.values()}  # without one, nothing of a message is taken
CARS = 4  # at a time
LONGEST = 60.0  # seconds that the program lives


class FakeDonkey:
    """A simulator of up to four cars, each of which drives alone, in threads within a ``with`` block.

    Args:
        period: Seconds between two frames; the real one has 0.05.
        faults: What goes wrong: "split" (messages come in pieces), "merge" (several at once), "commas" (1,5 for 1.5).
            Frames: "late" (an action is shown two frames later), "stale" (frames from before after a reset), "wild"
            (every fifth error is nonsense), "lost" (from a frame on all errors are). Ends: "die" (in the midst of frame
            20), "stall" (no frames after 20), "silent" (no message at all). Fields: "poor" (no position, no error),
            "garbage" (frame 5 is none), "renamed" (the second picture has its other name).
        version: Of the protocol.
        loaded: Whether a scene is loaded already, so that the car is asked for at once.
        port: Where it listens; 0 for a free one.
        private_key: Key of the private interface, at a port of its own.
        track: Number of the course, see `Track`.

    Attributes:
        port: Where it listens.
        private: Its private interface.
        refused: What it could not read.
        received: Messages that it has read.
        frames: How many it has sent.
        bumps: Frames that are to say that a cone was hit, after a lap.
        quits: Whether it was asked to end.
    """

    def __init__(
        self,
        *,
        period: float = 0.004,
        faults: Collection[str] = (),
        version: str = "2",
        loaded: bool = False,
        port: int = 0,
        private_key: str = "key",
        track: int = 1,
    ) -> None:
        self.period, self.faults, self.version, self.loaded = period, set(faults), version, loaded
        self.track = track
        self.refused: list[str] = []
        self.received: list[dict[str, str]] = []
        self.frames = self.bumps = 0
        self.quits = False
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self._stop = threading.Event()
        self.private = PrivateInterface(private_key, self.refused, self._stop)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self.private.serve)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._server.close()

    def wait(self, seconds: float) -> None:
        """Wait until it was asked to end, for so long at most."""
        self._stop.wait(seconds)

    def kinds(self) -> list[str]:
        """Return the types of the messages that it has read."""
        return [message["msg_type"] for message in self.received]

    def end(self) -> None:
        """Do what is asked by ``quit_app``."""
        self.quits = True
        self._stop.set()

    def _serve(self) -> None:
        self._server.settimeout(0.05)
        cars: list[threading.Thread] = []
        while not self._stop.is_set():
            cars = [car for car in cars if car.is_alive()]
            if len(cars) >= CARS:
                self._stop.wait(0.05)
                continue
            with contextlib.suppress(TimeoutError):
                connection, _ = self._server.accept()
                cars.append(threading.Thread(target=self._drive, args=(connection,), daemon=True))
                cars[-1].start()
        for car in cars:
            car.join(5)

    def _drive(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            SimulatedCar(self, connection).run(self._stop)


class PrivateInterface:
    """A port at which somebody who knows a key gives a seed.

    Args:
        key: The key.
        refused: Takes what cannot be read.
        stop: Ends it.

    Attributes:
        port: Where it listens.
        seed: Seed that it has got last; None for none.
    """

    def __init__(self, key: str, refused: list[str], stop: threading.Event) -> None:
        self._key, self._refused, self._stop = key, refused, stop
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.seed: int | None = None

    def serve(self) -> None:
        """Serve one connection after the other, until it is ended."""
        self._server.settimeout(0.05)
        with self._server:
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError, OSError):
                    connection, _ = self._server.accept()
                    with connection:
                        connection.settimeout(0.05)
                        self._obey(connection)

    def _obey(self, connection: socket.socket) -> None:
        knows, reader = False, Reader(self._refused)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data = connection.recv(4096)
                if not data:
                    return
                for message in reader.take(data.decode()):
                    if message["msg_type"] == "verify":
                        knows = message["private_key"] == self._key
                    elif message["msg_type"] == "set_random_seed" and knows:
                        self.seed = int(message["seed"])


class Reader:
    """Messages of a connection, split at braces: each begins with one, holds none, and ends with one.

    Args:
        refused: Takes what cannot be read.
    """

    def __init__(self, refused: list[str]) -> None:
        self._refused, self._text = refused, ""

    def take(self, data: str) -> list[dict[str, str]]:
        """Return the messages that are complete."""
        found: list[dict[str, str]] = []
        self._text += data
        while "{" in self._text:
            head, _, rest = self._text.partition("{")
            if head:
                self._refused.append(head)
            body, brace, after = rest.partition("}")
            if not brace:
                self._text = "{" + rest
                if "{" in rest:  # nested
                    self._refuse(self._text)
                return found
            self._text = after
            if "{" in body:
                self._refused.append("{" + body)
                continue
            message = json.loads("{" + body + "}")
            whole = message.keys() >= set(FIELDS.get(message["msg_type"], ()))
            if whole and all(isinstance(value, str) for value in message.values()):
                found.append(message)
            else:
                self._refused.append(body)
            if after and not after.startswith("{"):  # a line break leaves a message that never ends
                self._refuse(after)
        return found

    def _refuse(self, text: str) -> None:
        self._refused.append(text)
        self._text = ""


class SimulatedCar:
    """A car, and the connection that drives it.

    Args:
        simulator: The simulator.
        connection: The connection.
    """

    def __init__(self, simulator: FakeDonkey, connection: socket.socket) -> None:
        self.simulator, self.connection, self.reader = simulator, connection, Reader(simulator.refused)
        self.held, self.frames, self.driving, self.scene = b"", 0, False, ""
        self.car = Track(observation="camera", max_cte=1e6, stuck_distance=0.0)
        self.track = simulator.track
        self.control = [(0.0, 0.0)] * 3  # as it is to be applied, the newest last
        self.stale = self.laps = 0
        self.down = 0.0  # degrees, of the lowest sweep of its lidar
        self.again()

    def run(self, stop: threading.Event) -> None:
        """Serve it until it ends."""
        if "silent" in self.simulator.faults:
            stop.wait(30)
            return
        self.send({"msg_type": "need_car_config" if self.simulator.loaded else "scene_selection_ready"})
        end = time.monotonic()
        while not stop.is_set():
            readable, _, _ = select.select([self.connection], [], [], max(0.0, end - time.monotonic()))
            if readable:
                data = self.connection.recv(4096)
                if not data:  # the real one goes on sending to nobody
                    return
                for message in self.reader.take(data.decode()):
                    self.simulator.received.append(message)
                    self.answer(message)
                continue
            end = time.monotonic() + self.simulator.period
            if self.driving and not self.frame():
                return

    def answer(self, message: dict[str, str]) -> None:
        """Do what a message asks for."""
        kind, loaded = message["msg_type"], self.simulator.loaded
        if kind == "get_protocol_version":
            self.send({"msg_type": "protocol_version", "version": self.simulator.version})
        elif kind == "get_scene_names":
            self.send({"msg_type": "scene_names", "scene_names": list(SCENES)})
        elif (kind == "load_scene" and message["scene_name"] in SCENES) or (kind == "car_config" and loaded):
            self.scene = message.get("scene_name", SCENES[0])
            self.send({"msg_type": "car_loaded"})
        elif kind == "cam_config":
            self.driving = (message["img_w"], message["img_h"]) == ("160", "120")
        elif kind == "lidar_config":
            self.down = abs(float(message["degAngDelta"])) * (int(message["numSweepsLevels"]) - 1)
        elif kind == "control":
            throttle = float(message["throttle"]) - float(message["brake"])
            self.control.append((float(message["steering"]), throttle))
        elif kind == "reset_car":
            self.stale = 3 if "stale" in self.simulator.faults else 0
            if not self.stale:
                self.again()
        elif kind == "exit_scene":
            self.driving = False
        elif kind == "quit_app":
            self.simulator.end()
        else:
            self.move(message)

    def move(self, message: dict[str, str]) -> None:
        """Do what a message asks for that concerns road and place."""
        kind, points = message["msg_type"], self.car.course.points
        if kind == "node_position" and int(message["index"]) < len(points):
            x, z = (SCALE * points[int(message["index"])]).tolist()
            place = dict(zip((*POSITION, *ROTATION), (x, 0.5, z, 0.0, 0.0, 0.0, 1.0), strict=True))
            self.send({"msg_type": "node_position", "index": int(message["index"]), **place})
        elif kind == "set_position" and "poor" not in self.simulator.faults:
            wanted = np.array([float(message["pos_x"]), float(message["pos_z"])]) / SCALE
            near = int(np.argmin(np.linalg.norm(points - wanted, axis=1)))
            self.car.set_state({**self.car.state(), "position": wanted, "near": near})
        elif kind == "regen_road" and self.scene == SCENES[0]:
            self.track = int(message["rand_seed"]) % 1000
            self.again()

    def again(self) -> None:
        """Put the car at its start."""
        self.car.reset(seed=0, options={"parameters": {"track": self.track}})
        self.control, self.laps = [(0.0, 0.0)] * 3, 0

    def frame(self) -> bool:
        """Drive, and send a frame; False ends the connection."""
        self.frames = self.simulator.frames = self.frames + 1
        faults = self.simulator.faults
        if "stall" in faults and self.frames > 20:
            return True
        # what the newest messages ask for, or what they asked for two frames ago
        self.control.append(self.control[-1])
        del self.control[:-4]
        steering, throttle = self.control[-3 if "late" in faults else -1]
        _, _, _, _, info = self.car.step(np.array([-steering, throttle]))
        if info["lap_count"] > self.laps:
            self.laps = info["lap_count"]
            self.send({"msg_type": "cross_start", "lap_time": info["last_lap_time"]})
        telemetry = self.telemetry(info, steering, throttle)
        if self.stale:
            self.stale -= 1
            if not self.stale:
                self.again()
        if "garbage" in faults and self.frames == 5:
            self.connection.sendall(b"<html>\n")
            return True
        if "die" in faults and self.frames == 20:
            self.connection.sendall(json.dumps(telemetry).encode()[:200])
            return False
        self.send(telemetry)
        return True

    def telemetry(self, info: dict[str, Any], steering: float, throttle: float) -> dict[str, Any]:
        """Return a frame."""
        from PIL import Image

        held = io.BytesIO()
        Image.fromarray(self.car.picture()).save(held, "PNG", compress_level=1)
        shown = base64.b64encode(held.getvalue()).decode()
        found = {
            "msg_type": "telemetry",
            "steering_angle": steering,
            "throttle": max(0.0, throttle),
            "speed": info["speed"],
            "image": shown,
            "image_b" if "renamed" in self.simulator.faults else "imageb": shown,
            "hit": "none",
            "time": self.frames * 0.05,
            "yaw": float(np.degrees(info["heading"])),
            "lidar": [{"rx": 4.0, "ry": self.down, "d": 2.5}],
        }
        if self.simulator.bumps:
            self.simulator.bumps -= 1
            self.send({"msg_type": "cross_start", "lap_time": 12.5})
            found["hit"] = "cone"
        if "poor" not in self.simulator.faults:
            error, frames = info["cte"], self.frames
            if ("wild" in self.simulator.faults and frames % 5 == 0) or (
                "lost" in self.simulator.faults and frames > 20
            ):
                error = 5000.0
            found |= {"cte": error, "pos_x": info["pos"][0], "pos_y": 0.5, "pos_z": info["pos"][1]}
        return found

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, in the way of the faults."""
        text = json.dumps(message)
        if "commas" in self.simulator.faults:
            text = re.sub(r'(": -?\d+)\.(\d)', r"\1,\2", text)
        data = text.encode() + b"\n"
        if "merge" in self.simulator.faults:
            self.held += data
            if message["msg_type"] == "telemetry" and self.frames % 3:
                return
            data, self.held = self.held, b""
        if "split" in self.simulator.faults:
            for place in range(0, len(data), 1 + len(data) // 5):
                self.connection.sendall(data[place : place + 1 + len(data) // 5])
                time.sleep(0.0005)
            return
        self.connection.sendall(data)


def main() -> None:
    """Run it as a program, for a minute."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--period", type=float, default=0.004)
    parser.add_argument("--seconds", type=float, default=LONGEST)
    options = parser.parse_args()
    faults = [one for one in options.faults.split(",") if one]
    with FakeDonkey(port=options.port, period=options.period, faults=faults) as fake:
        fake.wait(options.seconds)


if __name__ == "__main__":
    main()
