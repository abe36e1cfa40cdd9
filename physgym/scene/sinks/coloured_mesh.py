"""Meshes for web pages: triangles, colours of scalars, fewer points, and a file of glTF with numbers of 16 bits."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.spaces import Array

STEPS = 65535  # of a coordinate in a file: 1/65535 of the size of the mesh
MISSING = (190, 190, 190)  # colour where a scalar is not finite
POSITIONS, COLOURS, CORNERS = 0, 1, 2  # parts of the file


def triangles(faces: Array) -> tuple[Array, Array]:
    """Return faces of three or four corners as triangles, and of which face each is a part."""
    owners = np.arange(len(faces))
    if faces.shape[1] == 3:
        return faces, owners
    halves = np.stack([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]], 1).reshape(-1, 3)
    return np.ascontiguousarray(halves), np.repeat(owners, 2)


def colours_of(scalars: Array, item: Mapping[str, Any]) -> Array:
    """Return the colours of scalars in the colour map of an object, shape (n, 3), uint8; grey of what is not finite."""
    from physgym.scene.style import colour_map

    low, high = item["limits"]
    known = np.isfinite(scalars)
    place = (np.where(known, scalars, low) - low) / ((high - low) or 1.0)
    found = (255 * colour_map(item["colours"])(np.clip(place, 0, 1))[:, :3]).round().astype(np.uint8)
    found[~known] = MISSING
    return np.ascontiguousarray(found)


def image_pixels(item: Mapping[str, Any]) -> Array:
    """Return the picture of an image, shape (rows, columns, 3), uint8: of numbers, whose first row is at the bottom.

    One that has colours itself, and no limits, is returned as it is.
    """
    values = np.asarray(item["values"])
    if "limits" not in item:
        return values
    return np.ascontiguousarray(colours_of(values.ravel(), item).reshape(*values.shape, 3)[::-1])


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the numbers of a colour "#rrggbb"."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


class Thinning:
    """A choice of the points of a mesh that are shown, for one of too many; the same as long as its faces are.

    Points that share a cell of a grid over the first positions become one of them, which moves as it does in the mesh.

    Args:
        points: Positions, shape (n, 3).
        faces: Triangles, shape (m, 3).
        most: Points that may be shown.

    Attributes:
        kept: Numbers of the points that are shown, ascending.
        faces: Triangles of these, renumbered.
        owners: Numbers of their triangles in the whole mesh.
    """

    def __init__(self, points: Array, faces: Array, most: int) -> None:
        if len(points) <= most:
            self.kept, self.faces, self.owners = np.arange(len(points)), faces, np.arange(len(faces))
            return
        low = points.min(axis=0)
        extent = np.maximum(points.max(axis=0) - low, 1e-30)
        across = max(2, int(np.sqrt(most)))
        while True:  # a surface has about the square of the cells along an edge; a cloud has more
            cells = np.minimum((points - low) / extent.max() * across, across - 1e-9).astype(np.int64)
            keys = (cells[:, 0] * across + cells[:, 1]) * across + cells[:, 2]
            _, first, place = np.unique(keys, return_index=True, return_inverse=True)
            if len(first) <= most or across == 2:
                break
            across = max(2, int(across * 0.8))
        self.kept = np.sort(first)
        numbers = np.searchsorted(self.kept, first)[place.reshape(-1)]
        moved = numbers[faces]
        whole = (moved[:, 0] != moved[:, 1]) & (moved[:, 1] != moved[:, 2]) & (moved[:, 2] != moved[:, 0])
        self.owners = np.flatnonzero(whole)
        self.faces = np.ascontiguousarray(moved[whole])


def gltf(points: Array, faces: Array, colours: Array, alpha: float) -> bytes:
    """Return a mesh with colours as a binary file of glTF, its positions rounded to 1/65535 of its size.

    Args:
        points: Positions, shape (n, 3).
        faces: Triangles, shape (m, 3).
        colours: Of the points, shape (n, 3), uint8.
        alpha: From 0, seen through, to 1.
    """
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    size = np.where(high > low, high - low, 1.0)
    places = np.zeros((len(points), 4), np.uint16)  # the fourth: parts of a row begin at multiples of four bytes
    places[:, :3] = np.rint((points - low) / size * STEPS)
    linear = np.empty((len(points), 4), np.uint8)
    linear[:, :3] = LINEAR[colours]
    linear[:, 3] = round(255 * alpha)
    corners = faces.astype(np.uint16 if len(points) <= 65535 else np.uint32).ravel()
    parts = [places.tobytes(), linear.tobytes(), corners.tobytes()]
    views, offset = [], 0
    for number, part in enumerate(parts):
        view: dict[str, Any] = {"buffer": 0, "byteOffset": offset, "byteLength": len(part)}
        views.append(view | ({"byteStride": len(part) // len(points)} if number != CORNERS else {}))
        offset += len(part) + -len(part) % 4
    bounds = {"min": places[:, :3].min(0).tolist(), "max": places[:, :3].max(0).tolist()}
    words = {"componentType": 5123, "type": "VEC3", "normalized": True, "count": len(points), **bounds}
    bytes_ = {"componentType": 5121, "type": "VEC4", "normalized": True, "count": len(points)}
    numbers = {"componentType": 5123 if corners.itemsize == 2 else 5125, "type": "SCALAR", "count": len(corners)}
    material: dict[str, Any] = {
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1},
    }
    document = {
        "asset": {"version": "2.0", "generator": "physgym"},
        "extensionsUsed": ["KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": low.tolist(), "scale": size.tolist()}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": POSITIONS, "COLOR_0": COLOURS}, "indices": CORNERS, "material": 0}
                ]
            }
        ],
        "materials": [material | ({"alphaMode": "BLEND"} if alpha < 1 else {})],
        "accessors": [{"bufferView": number, **one} for number, one in enumerate((words, bytes_, numbers))],
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(part + b"\0" * (-len(part) % 4) for part in parts)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def _linear() -> Array:
    """Return the intensity of each of the 256 steps of a colour, as glTF wants it, of 255."""
    steps = np.arange(256) / 255
    linear = np.where(steps <= 0.04045, steps / 12.92, ((steps + 0.055) / 1.055) ** 2.4)
    return (255 * linear).round().astype(np.uint8)


LINEAR = _linear()
