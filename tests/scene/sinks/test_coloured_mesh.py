"""Meshes for web pages: colours, fewer points, files of glTF."""

from __future__ import annotations

import json
import struct

import numpy as np

from physgym.scene.sinks.coloured_mesh import MISSING, Thinning, colours_of, gltf, rgb, triangles


def test_quads_become_two_triangles_of_the_same_face():
    faces, owners = triangles(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]))
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    assert owners.tolist() == [0, 0, 1, 1]


def test_scalars_have_the_colours_of_their_map_and_gaps_are_grey():
    item = {"limits": [0.0, 2.0], "colours": "gray"}
    found = colours_of(np.array([-1.0, 1.0, 9.0, np.nan]), item)
    assert found[[0, 2, 3]].tolist() == [[0, 0, 0], [255, 255, 255], list(MISSING)]
    assert abs(int(found[1, 0]) - 128) < 2
    assert rgb("#ff8000") == (255, 128, 0)


def test_thinned_meshes_keep_points_of_the_mesh():
    side = np.linspace(0, 1, 60)
    points = np.stack([*np.meshgrid(side, side), np.zeros((60, 60))], -1).reshape(-1, 3)
    corner = (np.arange(59)[:, None] * 60 + np.arange(59)).ravel()
    faces, _ = triangles(corner[:, None] + np.array([0, 1, 61, 60]))
    thinning = Thinning(points, faces, 400)
    assert 200 < len(thinning.kept) <= 400
    kept = points[thinning.kept]
    edges = kept[thinning.faces]
    area = np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1).sum() / 2
    assert 0.85 < area < 1.1  # it covers the square
    assert thinning.owners.max() < len(faces)
    whole = Thinning(points, faces, 4000)
    assert len(whole.kept) == 3600
    assert whole.faces is faces


def test_a_file_of_gltf_has_positions_to_a_fraction_of_their_size():
    rng = np.random.default_rng(0)
    points, faces = rng.normal(size=(50, 3)) * [1, 10, 0], np.array([[0, 1, 2], [3, 4, 49]])
    data = gltf(points, faces, np.tile(np.array([[255, 0, 128]], np.uint8), (50, 1)), 0.5)
    magic, version, length, size, kind = struct.unpack("<IIIII", data[:20])
    assert (magic, version, length, kind) == (0x46546C67, 2, len(data), 0x4E4F534A)
    document = json.loads(data[20 : 20 + size])
    body = data[28 + size :]
    view = document["bufferViews"][0]
    stored = np.frombuffer(body, np.uint16, 200, view["byteOffset"]).reshape(50, 4)[:, :3]
    node = document["nodes"][0]
    back = stored / 65535 * node["scale"] + node["translation"]
    np.testing.assert_allclose(back, points, atol=0.51 / 65535 * np.ptp(points, axis=0).max())
    corners = np.frombuffer(body, np.uint16, 6, document["bufferViews"][2]["byteOffset"])
    assert corners.tolist() == faces.ravel().tolist()
    assert np.frombuffer(body, np.uint8, 4, document["bufferViews"][1]["byteOffset"]).tolist() == [255, 0, 55, 128]
    assert document["materials"][0]["alphaMode"] == "BLEND"
