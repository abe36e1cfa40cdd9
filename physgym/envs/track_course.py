"""`Course`: the centre line of a closed road, and where a place lies along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.errors import ConfigError
from physgym.spaces import Array

SPACING = 0.5  # m between the points of a centre line, about
WAVES = range(2, 7)  # the bends of a random course: cosines of so many periods
ATTEMPTS = 60
SEARCHED = 24  # points on either side of the last place among which the next one is looked for


@dataclass(frozen=True)
class Course:
    """A closed centre line.

    Attributes:
        points: At equal distances along it, shape (n, 2), float64, in m.
        tangents: Unit vectors there, in the direction in which it is driven, shape (n, 2).
        curvature: Of the line there, positive to the left, shape (n,), in 1/m.
        length: Of the line in m.
    """

    points: Array
    tangents: Array
    curvature: Array
    length: float

    @property
    def spacing(self) -> float:
        """Return the distance between two points along the line in m."""
        return self.length / len(self.points)

    @property
    def mirrored(self) -> Course:
        """Return the same course as in a mirror, so that left bends are right ones."""
        mirror = np.array([-1.0, 1.0])
        return Course(self.points * mirror, self.tangents * mirror, -self.curvature, self.length)

    def place(self, position: Array, near: int | None = None) -> tuple[int, float, float]:
        """Return where a position lies with respect to the line.

        Args:
            position: Shape (2,), in m.
            near: Number of the point near which it was just before; None where nothing is known.

        Returns:
            Number of the nearest point; distance along the line from point 0 to the foot of the position, in m, from 0
            to `length`; and its distance from the line in m, positive to the left.
        """
        if near is None:
            number = int(np.square(self.points - position).sum(1).argmin())
        else:
            window = np.arange(near - SEARCHED, near + SEARCHED + 1) % len(self.points)
            number = int(window[np.square(self.points.take(window, 0) - position).sum(1).argmin()])
        (x, y), (a, b) = position - self.points[number], self.tangents[number]
        along = (number * self.spacing + x * a + y * b) % self.length
        return number, float(along), float(y * a - x * b)

    def ahead(self, along: float, distance: float) -> float:
        """Return the curvature of the line some distance ahead of a place along it, in 1/m."""
        return float(self.curvature[round((along + distance) / self.spacing) % len(self.points)])


def circle(radius: float) -> Course:
    """Return a course that is a circle around the origin, driven to the left."""
    count = max(16, round(2 * np.pi * radius / SPACING))
    angle = 2 * np.pi * np.arange(count) / count
    points = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    tangents = np.stack([-np.sin(angle), np.cos(angle)], 1)
    return Course(points, tangents, np.full(count, 1 / radius), 2 * np.pi * radius)


def random_course(rng: np.random.Generator, length: float, radius: float, width: float) -> Course:
    """Return a random course: a circle with random bends, which never meets itself, driven in either direction.

    Args:
        rng: What it is drawn from.
        length: Of the line in m.
        radius: The least one of any bend in m.
        width: Distance in m that parts of the line keep which are not neighbours.

    Raises:
        ConfigError: No course of this length has such bends.
    """
    mirrored = rng.random() < 0.5
    heights = rng.normal(size=len(WAVES)) / np.array(WAVES)
    phases = rng.uniform(0, 2 * np.pi, len(WAVES))
    share = 1.0
    for _ in range(ATTEMPTS):  # bends that are too sharp are made flatter, all of them alike
        course = _bent(length, share * heights, phases)
        if course is not None and np.abs(course.curvature).max() <= 1 / radius and _keeps_away(course, width):
            return course.mirrored if mirrored else course
        share *= 0.9
    raise ConfigError(
        f"no course of {length} m has bends of {radius} m at least; a circle has {length / 2 / np.pi:.3g} m: make it "
        "longer, or the radius smaller"
    )


def _bent(length: float, heights: Array, phases: Array) -> Course | None:
    """Return a circle with waves, scaled to a length; None where its radius would not stay positive."""
    count = round(length / SPACING)
    angle = 2 * np.pi * np.arange(8 * count) / (8 * count)
    waves = np.cos(np.outer(angle, WAVES) + phases)
    distance = 1 + waves @ heights
    if distance.min() < 0.15:
        return None
    fine = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    steps = np.hypot(*(np.roll(fine, -1, 0) - fine).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    closed = np.concatenate([fine, fine[:1]])
    even = np.linspace(0, along[-1], count, endpoint=False)
    points = np.stack([np.interp(even, along, closed[:, axis]) for axis in (0, 1)], 1) * (length / along[-1])
    chords = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    tangents = chords / np.hypot(*chords.T)[:, None]
    after = np.roll(tangents, -1, 0)
    before = np.roll(tangents, 1, 0)
    turned = np.arctan2(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0], (before * after).sum(1))
    return Course(points, tangents, turned / (2 * length / count), length)


def _keeps_away(course: Course, width: float) -> bool:
    """Return whether no two parts of a course come nearer than a width, but for neighbours."""
    points = course.points[::4]
    gaps = np.square(points[:, None] - points[None]).sum(-1)
    number = np.arange(len(points))
    steps = np.abs(number[:, None] - number[None])
    along = np.minimum(steps, len(points) - steps) * (course.length / len(points))
    # half a circle of this width is the shortest way to come back
    return bool((gaps[along > np.pi / 2 * width] > width**2).all())
