"""A simulator of DonkeyCar for tests: as strict and as faulty as the real one, with the car of Track-v0.

Run it as a program with ``python -m tests.support.fake_donkey --port N``, or in a thread with `FakeDonkey`.
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

import numpy as np
from PIL import Image

from physgym.envs.track import Track

SCENES = ["generated_road", "warehouse", "mountain_track"]


class FakeDonkey:
    """A server for one car after the other.

    Args:
        period: Seconds between two frames.
        faults: What goes wrong: "split" (messages come in pieces), "merge" (several at once), "commas" (1,5 for 1.5),
            "late" (an action is shown two frames later), "stale" (frames from before after a reset), "wild" (every
            fifth error is nonsense), "lost" (from a frame on all errors are), "die" (in the midst of frame 20), "stall"
            (no frames after 20), "silent" (no message at all), "poor" (no position, no error), "garbage" (frame 5 is
            none).
        version: Of the protocol.
        loaded: Whether a scene is loaded already, so that the car is asked for at once.
    """

    def __init__(self, *, period=0.004, faults=(), version="2", loaded=False, port=0):
        self.period, self.faults, self.version, self.loaded = period, set(faults), version, loaded
        self.refused: list[str] = []  # what it could not read
        self.received: list[dict] = []
        self.frames = 0  # that were sent
        self.bumps = 0  # frames that are to say that a cone was hit, after a lap
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.settimeout(0.05)
        self.port = self._server.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(5)
        self._server.close()
        assert not self._thread.is_alive()

    def kinds(self):
        return [message["msg_type"] for message in self.received]

    def serve(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    Session(self, connection).run(self._stop)


class Session:
    """One connection."""

    def __init__(self, server: FakeDonkey, connection: socket.socket):
        self.server, self.connection = server, connection
        self.text, self.held, self.frames, self.driving = "", b"", 0, False
        self.car = Track(observation="camera", max_cte=1e6, stuck_distance=0.0)
        self.car.reset(seed=0, options={"parameters": {"track": 1}})
        self.control = [(0.0, 0.0)] * 3  # as it is to be applied, the newest last
        self.begin, self.stale, self.laps = 0, 0, 0

    def run(self, stop):
        if "silent" in self.server.faults:
            stop.wait(30)
            return
        self.send({"msg_type": "need_car_config"} if self.server.loaded else {"msg_type": "scene_selection_ready"})
        end = time.monotonic()
        while not stop.is_set():
            readable, _, _ = select.select([self.connection], [], [], max(0.0, end - time.monotonic()))
            if readable:
                data = self.connection.recv(4096)
                if not data:  # the real one goes on sending to nobody
                    return
                self.take(data.decode())
                continue
            end = time.monotonic() + self.server.period
            if self.driving and not self.frame():
                return

    def take(self, data: str):
        """Split at braces, as the real one does: a message begins with one, holds none, and ends with one."""
        self.text += data
        while "{" in self.text:
            head, _, rest = self.text.partition("{")
            if head.strip() or head:
                self.server.refused.append(head)
            body, brace, after = rest.partition("}")
            if not brace:
                self.text = "{" + rest
                if "{" in rest:  # nested
                    self.server.refused.append(self.text)
                    self.text = ""
                return
            if "{" in body:
                self.server.refused.append("{" + body)
                self.text = after
                continue
            message = json.loads("{" + body + "}")
            if not all(isinstance(value, str) for value in message.values()):
                self.server.refused.append(body)
            else:
                self.server.received.append(message)
                self.answer(message)
            self.text = after
            if after and not after.startswith("{"):  # a line break leaves a message that never ends
                self.server.refused.append(after)
                self.text = ""

    def answer(self, message):
        kind = message["msg_type"]
        if kind == "get_protocol_version":
            self.send({"msg_type": "protocol_version", "version": self.server.version})
        elif kind == "get_scene_names":
            self.send({"msg_type": "scene_names", "scene_names": SCENES})
        elif (kind == "load_scene" and message["scene_name"] in SCENES) or (
            kind == "car_config" and self.server.loaded
        ):
            self.send({"msg_type": "car_loaded"})
        elif kind == "cam_config":
            assert (message["img_w"], message["img_h"]) == ("160", "120")
            self.driving = True
        elif kind == "control":
            throttle = float(message["throttle"]) - float(message["brake"])
            self.control.append((float(message["steering"]), throttle))
        elif kind == "reset_car":
            self.stale = 3 if "stale" in self.server.faults else 0
            if not self.stale:
                self.again()
        elif kind == "exit_scene":
            self.driving = False

    def again(self):
        self.car.reset(seed=0, options={"parameters": {"track": 1}})
        self.control, self.laps = [(0.0, 0.0)] * 3, 0

    def frame(self) -> bool:
        """Drive, and send a frame; False ends the connection."""
        self.frames = self.server.frames = self.frames + 1
        faults = self.server.faults
        if "stall" in faults and self.frames > 20:
            return True
        # what the newest messages ask for, or what they asked for two frames ago
        self.control.append(self.control[-1])
        steering, throttle = self.control[-3 if "late" in faults else -1]
        _, _, _, _, info = self.car.step(np.array([-steering, throttle]))
        if info["lap_count"] > self.laps:
            self.laps = info["lap_count"]
            self.send({"msg_type": "cross_start", "lap_time": info["last_lap_time"]})
        held = io.BytesIO()
        Image.fromarray(self.car.picture()).save(held, "PNG")
        telemetry = {
            "msg_type": "telemetry",
            "steering_angle": steering,
            "throttle": max(0.0, throttle),
            "speed": info["speed"],
            "image": base64.b64encode(held.getvalue()).decode(),
            "imageb": base64.b64encode(held.getvalue()).decode(),
            "hit": "none",
            "time": self.frames * 0.05,
            "yaw": float(np.degrees(info["heading"])),
            "lidar": [{"rx": 0.5, "ry": 1.5, "d": 2.5}],
        }
        if self.server.bumps:
            self.server.bumps -= 1
            self.send({"msg_type": "cross_start", "lap_time": 12.5})
            telemetry["hit"] = "cone"
        if "poor" not in faults:
            error = info["cte"]
            if ("wild" in faults and self.frames % 5 == 0) or ("lost" in faults and self.frames > 20):
                error = 5000.0
            telemetry |= {"cte": error, "pos_x": info["pos"][0], "pos_y": 0.5, "pos_z": info["pos"][1]}
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

    def send(self, message):
        text = json.dumps(message)
        if "commas" in self.server.faults:
            text = re.sub(r'(": -?\d+)\.(\d)', r"\1,\2", text)
        data = text.encode() + b"\n"
        if "merge" in self.server.faults:
            self.held += data
            if message["msg_type"] == "telemetry" and self.frames % 3:
                return
            data, self.held = self.held, b""
        if "split" in self.server.faults:
            for place in range(0, len(data), 1 + len(data) // 5):
                self.connection.sendall(data[place : place + 1 + len(data) // 5])
                time.sleep(0.0005)
            return
        self.connection.sendall(data)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--period", type=float, default=0.004)
    options = parser.parse_args()
    fake = FakeDonkey(
        port=options.port, period=options.period, faults=[one for one in options.faults.split(",") if one]
    )
    threading.Timer(60, fake._stop.set).start()
    with fake:
        fake._stop.wait(60)


if __name__ == "__main__":
    main()
