"""Solids at points: glyphs and arrows of a snapshot as one mesh of triangles, which every viewer can draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.spaces import Array

SIDES = 10  # of a circle
SHAFT, HEAD, TIP = 0.015, 0.05, 0.25  # radii and length of the tip of an arrow, as parts of its length
ROUND = [[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, SIDES, endpoint=False)]


def solids(item: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """Return the glyphs or arrows of a snapshot as one mesh.

    Args:
        item: The object.

    Returns:
        Points, shape (n, 3); triangles, shape (m, 3), int32; and to which point of the object each point belongs, shape
        (n,). Arrows without length are left out.
    """
    middles = np.asarray(item["points"], np.float64)
    vectors = item.get("vectors")
    if item["kind"] == "arrows":
        lengths = np.linalg.norm(item["vectors"], axis=1)
        kept = np.flatnonzero(lengths > 0)
        corners, faces = _revolved([(0, 0), (SHAFT, 0), (SHAFT, 1 - TIP), (HEAD, 1 - TIP), (0, 1)])
        middles, vectors, scales = middles[kept], np.asarray(vectors)[kept], lengths[kept]
    else:
        kept = np.arange(len(middles))
        corners, faces = SHAPES[item["shape"]]()
        scales = np.full(len(middles), item["scale"])
    turned = corners[None] if vectors is None else _turned(corners, np.asarray(vectors, np.float64))
    points = middles[:, None] + scales[:, None, None] * turned
    numbers = faces[None] + (len(corners) * np.arange(len(middles)))[:, None, None]
    return points.reshape(-1, 3), numbers.reshape(-1, 3).astype(np.int32), np.repeat(kept, len(corners))


def _turned(corners: Array, vectors: Array) -> Array:
    """Return corners turned so that z becomes the direction of each vector, shape (n, corners, 3)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    towards = np.where(lengths > 0, vectors / np.where(lengths > 0, lengths, 1.0), (0.0, 0.0, 1.0))
    helper = np.where(np.abs(towards[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    side = np.cross(helper, towards)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    frame = np.stack([side, np.cross(towards, side), towards], axis=1)  # (n, 3 axes, 3)
    turned: Array = corners @ frame
    return turned


def _revolved(profile: list[tuple[float, float]]) -> tuple[Array, Array]:
    """Return the solid that a line of (radius, height) makes when it turns about z: points and triangles."""
    rings = [np.array([[r * x, r * y, z] for x, y in ROUND]) for r, z in profile]
    after = (np.arange(SIDES) + 1) % SIDES
    faces = []
    for number in range(len(rings) - 1):
        low, high = SIDES * number, SIDES * (number + 1)
        here = np.arange(SIDES)
        faces += [
            np.stack([low + here, low + after, high + after], 1),
            np.stack([low + here, high + after, high + here], 1),
        ]
    return np.concatenate(rings), np.concatenate(faces)


def _sphere() -> tuple[Array, Array]:
    angles = np.linspace(-np.pi / 2, np.pi / 2, 7)
    return _revolved([(0.5 * float(np.cos(a)), 0.5 * float(np.sin(a))) for a in angles])


def _cone() -> tuple[Array, Array]:
    return _revolved([(0, -0.5), (0.5, -0.5), (0, 0.5)])


def _cylinder() -> tuple[Array, Array]:
    return _revolved([(0, -0.5), (0.5, -0.5), (0.5, 0.5), (0, 0.5)])


def _cube() -> tuple[Array, Array]:
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


SHAPES = {"sphere": _sphere, "cube": _cube, "cone": _cone, "cylinder": _cylinder}
