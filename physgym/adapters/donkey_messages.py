"""Contents of messages of a DonkeyCar simulator: configurations that it takes, pictures and numbers that it sends."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.checks import integer, is_real, positive
from physgym.envs.track_camera import HEIGHT, WIDTH
from physgym.errors import ConfigError, SimulatorError
from physgym.spaces import Array

SCALE = 8.0  # positions in units of the scene, of which telemetry sends the eighth part
POSITION = ("pos_x", "pos_y", "pos_z")
ROTATION = ("Qx", "Qy", "Qz", "Qw")
LIDAR_MISSED = -1.0  # distance of a ray that has hit nothing

# Every message has to be whole: of one that lacks a field the simulator takes nothing, and says nothing. For the camera
# 0 means to leave it as it is.
OPTIC = {"fov": 0, "fish_eye_x": 0.0, "fish_eye_y": 0.0, "img_w": WIDTH, "img_h": HEIGHT, "img_d": 3, "img_enc": "PNG"}
PLACE = {"offset_x": 0.0, "offset_y": 0.0, "offset_z": 0.0, "rot_x": 0.0}
CAMERA = {**OPTIC, **PLACE, "rot_y": 0.0, "rot_z": 0.0}
SWEEPS = {"degPerSweepInc": 2.0, "degAngDown": 0.0, "degAngDelta": -1.0, "numSweepsLevels": 1, "maxRange": 50.0}
CONFIGURATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # by argument: type of the message, and all its fields
    "racer": ("racer_info", dict.fromkeys(("racer_name", "car_name", "bio", "country", "guid"), "")),
    "car": (
        "car_config",
        {"body_style": "donkey", "body_r": 128, "body_g": 128, "body_b": 128, "car_name": "car", "font_size": 100},
    ),
    "camera": ("cam_config", CAMERA),
    "camera_b": ("cam_config_b", CAMERA),
    "lidar": ("lidar_config", {**SWEEPS, **PLACE, "offset_y": 0.5, "offset_z": 0.5, "noise": 0.0}),
}


def configuration(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields of a configuration, those that are not given as they are by default.

    Args:
        name: Of `CONFIGURATIONS`.
        given: Fields as in the protocol.

    Raises:
        ConfigError: One is unknown, a lidar would have no rays, or pictures another size than the observation.
    """
    known = CONFIGURATIONS[name][1]
    if unknown := sorted(given.keys() - known.keys()):
        raise ConfigError(f"{name} has no {unknown}; it has {', '.join(known)}")
    found = {**known, **given}
    if name == "lidar":
        lidar_shape(found)
    for side, size in (("img_w", WIDTH), ("img_h", HEIGHT)):
        if found.get(side, size) != size:
            raise ConfigError(f"{name} has pictures of {WIDTH} x {HEIGHT}; leave {side} out, not {found[side]!r}")
    return found


def lidar_shape(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many sweeps a lidar makes, and how many rays each of them has.

    Raises:
        ConfigError: There are none.
    """
    levels = integer("lidar numSweepsLevels", fields["numSweepsLevels"], 1)
    step, delta = positive("lidar degPerSweepInc", fields["degPerSweepInc"]), fields["degAngDelta"]
    if step > 360 or not is_real(delta) or not delta:
        raise ConfigError(
            "lidar degPerSweepInc is at most 360 degrees, and degAngDelta a number other than 0, not "
            f"{step} and {delta!r}"
        )
    return levels, int(360 / step)


def distances(rays: Any, fields: Mapping[str, Any]) -> Array:
    """Return the distances of a lidar's rays, shape (sweeps, rays), float32; -1 where a ray has hit nothing.

    Args:
        rays: Of a frame: angle around, angle down and distance of each hit.
        fields: The configuration.

    Raises:
        SimulatorError: A ray is none of the configuration.
    """
    found = np.full(lidar_shape(fields), LIDAR_MISSED, np.float32)
    for ray in rays or ():
        across, down = (
            round(abs(number_in(ray, name) / float(fields[step])))
            for name, step in (("rx", "degPerSweepInc"), ("ry", "degAngDelta"))
        )
        across %= found.shape[1]
        if down >= found.shape[0]:
            raise SimulatorError(
                f"the lidar has a ray {number_in(ray, 'ry'):g} degrees down, and is to have {found.shape[0]} sweeps "
                f"that are {fields['degAngDelta']} degrees from each other"
            )
        found[down, across] = number_in(ray, "d")
    return found


def number_in(message: Mapping[str, Any], name: str) -> float:
    """Return a number of a message; 0 where it is left out.

    Raises:
        SimulatorError: It is no number.
    """
    value = message.get(name, 0.0)
    try:
        return float(value.replace(",", ".") if isinstance(value, str) else value)
    except (TypeError, ValueError) as error:
        raise SimulatorError(f"the simulator sends {value!r} as {name}, which is no number") from error


def position_in(message: Mapping[str, Any]) -> Array:
    """Return the position in a message, shape (3,)."""
    return np.array([number_in(message, name) for name in POSITION])


def numbers(name: str, values: Any, count: int) -> list[float]:
    """Return finite numbers of an argument, such as a position.

    Raises:
        ConfigError: They are others, or not so many.
    """
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {count} numbers, not {values!r}") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ConfigError(f"{name} is {count} finite numbers, not {values!r}")
    return found


def picture_in(frame: Mapping[str, Any], name: str) -> Array:
    """Return a picture of a frame, shape (120, 160, 3), uint8.

    Raises:
        SimulatorError: There is none, it cannot be read, or it has another size.
    """
    from PIL import Image

    if name not in frame:
        raise SimulatorError(f"a frame of the simulator has no {name!r}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(frame[name], validate=True))) as image:
            pixels: Array = np.asarray(image.convert("RGB"))
    except (ValueError, OSError, TypeError) as error:
        raise SimulatorError(f"the {name} of a frame cannot be read: {error}") from error
    if pixels.shape != (HEIGHT, WIDTH, 3):
        raise SimulatorError(
            f"the {name} of a frame has {pixels.shape[1]} x {pixels.shape[0]} pixels, not {WIDTH} x {HEIGHT}; leave "
            "img_w and img_h of the camera out"
        )
    return pixels
