"""`PageLayout`: where environments stand on a page that shows several in one space, and the camera that sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.spaces import Array

GAP = 1.3  # from one environment to the next, in parts of what they take
OPENING = np.deg2rad(75)  # of viser's camera


class PageLayout:
    """Places of environments in a grid, far enough from each other, and the camera that sees them all."""

    def __init__(self, camera: Mapping[str, Any], environments: tuple[int, ...], size: Array, centre: Array) -> None:
        self._camera, self._environments, self._size, self._centre = camera, environments, size, centre
        self._columns = int(np.ceil(np.sqrt(len(environments))))

    @classmethod
    def of(cls, camera: Mapping[str, Any], environments: tuple[int, ...], before: PageLayout | None) -> PageLayout:
        """Return the layout of environments; it stays as it is unless what they take has grown by much."""
        bounds = np.asarray(camera["bounds"], np.float64)
        size = np.maximum(bounds[1] - bounds[0], 1e-9)
        alike = before is not None and set(before._environments) == set(environments)
        if before is not None and alike and (size <= GAP * before._size).all():
            return before
        if before is not None:
            size = np.maximum(size, before._size)
        return cls(camera, tuple(sorted(environments)), size, bounds.mean(axis=0))

    def position(self, environment: int) -> Array:
        """Return where an environment is moved to, shape (3,)."""
        row, column = divmod(self._environments.index(environment), self._columns)
        place = np.zeros(3)
        place[0], place[1] = column * GAP * self._size[0], -row * GAP * self._size[1]
        return place

    def look(self, server: Any, *, now: bool) -> None:
        """Let the camera of those who come see all of it, and with `now` that of those who are there."""
        corners = np.array([self.position(one) for one in self._environments])
        centre = self._centre + (corners.min(axis=0) + corners.max(axis=0)) / 2
        radius = np.linalg.norm(np.ptp(corners, axis=0) + self._size) / 2
        flat = self._camera["flat"]
        towards = np.asarray((0.0, 0.0, 1.0) if flat else self._camera["direction"], np.float64)
        up = (0.0, 1.0, 0.0) if flat else tuple(self._camera["up"])
        place = centre + towards / np.linalg.norm(towards) * radius / np.tan(OPENING / 2) * 1.1
        server.scene.set_up_direction(up)
        eyes = [server.initial_camera, *([one.camera for one in server.get_clients().values()] if now else [])]
        for eye in eyes:
            eye.position, eye.look_at = tuple(place.tolist()), tuple(centre.tolist())
