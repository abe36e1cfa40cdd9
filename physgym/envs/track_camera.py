"""`RoadCamera`: pictures of a road as its driver sees them, by software alone.

The road is painted once from above. Every pixel below the horizon has its place on the ground in the frame of the car,
which is computed once too, so that a picture is a turn, a shift and a look at the painting.
"""

from __future__ import annotations

import numpy as np

from physgym.envs.track_course import Course
from physgym.spaces import Array

HEIGHT, WIDTH = 120, 160  # pixels
GRASS, ASPHALT, WHITE, YELLOW, SKY = range(5)
COLOURS = np.array([[60, 120, 50], [90, 90, 95], [235, 235, 235], [240, 200, 60], [135, 180, 230]], np.uint8)
EYE = 1.4  # m above the ground
PITCH = 0.08  # downwards, in radians
FOCAL_LENGTH = 130.0  # pixels
SIGHT = 60.0  # m; what is farther away is haze of the colour of the grass
RESOLUTION = 0.1  # m of the painting
MARK = 0.15  # m, half the width of a marking
DASH = 9.0  # m from a dash in the middle to the next one, about


class RoadCamera:
    """A camera on a road.

    Args:
        course: The centre line.
        half_width: Distance in m from it to the edge of the asphalt.
    """

    def __init__(self, course: Course, half_width: float) -> None:
        v, u = (np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5 - np.array([HEIGHT, WIDTH])[:, None, None] / 2) / FOCAL_LENGTH
        down, forward = np.sin(PITCH) + v * np.cos(PITCH), np.cos(PITCH) - v * np.sin(PITCH)  # of each ray
        self._top = int(np.argmax(down[:, 0] > EYE / SIGHT))  # the first row of the ground
        far = EYE / down[self._top :]
        self._sky = COLOURS[SKY]
        reach = float(np.hypot(far * forward[self._top :], far * u[self._top :]).max()) + 2 * half_width
        self._low = course.points.min(0) - reach
        painting = _painted(course, half_width, self._low, course.points.max(0) + reach)
        self._painting, self._rows = painting.ravel(), np.int32(painting.shape[1])
        # places on the ground ahead and to the left, in pixels of the painting
        self._ahead = (far * forward[self._top :] / RESOLUTION).astype(np.float32)
        self._left = (-far * u[self._top :] / RESOLUTION).astype(np.float32)

    def picture(self, position: Array, heading: float) -> Array:
        """Return what is seen.

        Args:
            position: Of the camera, shape (2,), in m.
            heading: Its direction in radians, counter-clockwise from the x axis.

        Returns:
            Shape (120, 160, 3), uint8, RGB; the first row is the top.
        """
        cosine, sine = np.float32(np.cos(heading)), np.float32(np.sin(heading))
        x, y = ((position - self._low) / RESOLUTION).astype(np.float32)
        place = (self._ahead * cosine - self._left * sine + x).astype(np.int32)
        place *= self._rows
        place += (self._ahead * sine + self._left * cosine + y).astype(np.int32)
        image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        image[: self._top] = self._sky
        colours = self._painting.take(place, mode="clip")
        np.take(COLOURS, colours.ravel(), axis=0, out=image[self._top :].reshape(-1, 3), mode="clip")
        return image


def _painted(course: Course, half_width: float, low: Array, high: Array) -> Array:
    """Return the road from above: numbers of colours by x and y, from a lower corner on."""
    canvas = np.full(np.ceil((high - low) / RESOLUTION).astype(int) + 1, GRASS, np.uint8)
    fine = np.arange(0, course.length, RESOLUTION / 2)
    number = (fine / course.spacing).astype(int) % len(course.points)
    rest = fine - (fine // course.spacing) * course.spacing
    middle = course.points[number] + rest[:, None] * course.tangents[number]
    normals = np.stack([-course.tangents[number][:, 1], course.tangents[number][:, 0]], 1)
    dash = course.length / max(1, round(course.length / DASH))  # so that the last one meets the first
    dashed = fine % dash < dash / 2
    for offset in np.arange(-half_width, half_width, RESOLUTION / 2):
        x, y = ((middle + offset * normals - low) / RESOLUTION).astype(int).T
        if abs(abs(offset) - (half_width - 3 * MARK)) < MARK:
            canvas[x, y] = WHITE
        elif abs(offset) < MARK:
            canvas[x, y] = np.where(dashed, YELLOW, ASPHALT)
        else:
            canvas[x, y] = ASPHALT
    return canvas
