"""`PageScene`: the scene of one environment on a web page of viser, whose objects are sent again where they changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from physgym.scene.changes import same
from physgym.scene.kinds import PLOTS
from physgym.scene.sinks.coloured_mesh import Thinning, colours_of, gltf, rgb, triangles
from physgym.scene.sinks.page_inputs import Give, PageInputs
from physgym.scene.sinks.page_panels import PictureTime, SidePanel
from physgym.scene.solids import solids
from physgym.spaces import Array

MOST_POINTS = 20_000  # of a mesh on a page; finer ones are thinned
DOT = 1 / 500  # size of a point of one pixel, as a part of what is seen


@dataclass
class _Node:
    """An object on the page.

    Attributes:
        item: What is shown.
        handle: What viser gave for it, None where there is nothing to see.
        thinning: The choice of its points, for a mesh.
        corners: Its triangles before that choice.
        exact: Whether all of its points are shown.
        coloured: Whether it is a file of glTF, with a colour for each point.
    """

    item: Mapping[str, Any]
    handle: Any = None
    thinning: Thinning | None = None
    corners: Array | None = field(default=None, repr=False)
    exact: bool = True
    coloured: bool = False


class PageScene:
    """One environment on a page.

    Args:
        server: The server of viser.
        environment: Its number.
        pictures: The time for pictures of curves, which all environments have in common.
        give: Takes the inputs that a person changes; None where the run takes none.

    Attributes:
        sent: Bytes of arrays that were sent.
    """

    def __init__(self, server: Any, environment: int, pictures: PictureTime, give: Give | None = None) -> None:
        self._scene, self._name = server.scene, f"/environment_{environment}"
        self._frame = self._scene.add_frame(self._name, show_axes=False)
        self._side = SidePanel(server, environment, pictures)
        self._inputs = None if give is None else PageInputs(server, environment, self._name, self._side.folder, give)
        self._nodes: dict[str, _Node] = {}
        self._extent = 1.0
        self.sent = 0

    @property
    def thinned(self) -> list[str]:
        """Return the names of meshes that are shown with fewer points than they have."""
        return [name for name, node in self._nodes.items() if not node.exact]

    def place(self, position: Array) -> None:
        """Move all of it."""
        self._frame.position = tuple(position.tolist())

    def update(self, snapshot: Mapping[str, Any]) -> None:
        """Send what differs from the last snapshot."""
        bounds = snapshot["camera"].get("bounds")
        if bounds is not None:
            self._extent = float(np.linalg.norm(np.subtract(bounds[1], bounds[0]))) or 1.0
        objects = {name: item for name, item in snapshot["objects"].items() if item["kind"] not in PLOTS}
        for name in [name for name in self._nodes if name not in objects]:
            self._remove(name)
        for name, item in objects.items():
            known = self._nodes.get(name)
            if known is None:
                self._nodes[name] = self._made(name, item, None)
            elif not _unchanged(known.item, item):
                if known.item["kind"] != item["kind"]:
                    self._remove(name)
                    known = None
                self._nodes[name] = self._made(name, item, known)

    def update_side(self, snapshot: Mapping[str, Any]) -> None:
        """Show what differs of inputs, texts, curves and images, which may take long."""
        if self._inputs is not None:
            self._inputs.update(snapshot.get("inputs", {}), self._extent)
        self._side.update(snapshot)

    def close(self) -> None:
        """Take all of it from the page."""
        for name in list(self._nodes):
            self._remove(name)
        if self._inputs is not None:
            self._inputs.close()
        self._frame.remove()
        self._side.close()

    def _remove(self, name: str) -> None:
        node = self._nodes.pop(name)
        if node.handle is not None:
            node.handle.remove()

    def _made(self, name: str, item: Mapping[str, Any], before: _Node | None) -> _Node:
        """Return an object as it is on the page now."""
        path, kind = f"{self._name}/{name}", item["kind"]
        node = _Node(item)
        if kind == "text":
            if "point" in item:
                node.handle = self._scene.add_label(path, item["text"], position=tuple(item["point"].tolist()))
        elif not len(item["points"]):
            pass
        elif kind in ("points", "markers"):
            node.handle = self._scene.add_point_cloud(
                path,
                np.asarray(item["points"], np.float32),
                colours_of(item["scalars"], item) if "scalars" in item else rgb(item["colour"]),
                point_size=item["point_size"] * DOT * self._extent,
                point_shape="circle",
                precision="float32",
            )
            self.sent += item["points"].nbytes
        elif kind == "lines":
            node.handle = self._lines(path, item)
        elif kind == "mesh":
            self._mesh(path, node, before)
        else:
            self._solids(path, node, before)
        if node.handle is None and before is not None and before.handle is not None:
            before.handle.remove()
        return node

    def _lines(self, path: str, item: Mapping[str, Any]) -> Any:
        segments = item["segments"]
        if not len(segments):
            return None
        colours = (
            colours_of(item["scalars"], item)[segments]
            if "scalars" in item
            else np.tile(np.array(rgb(item["colour"]), np.uint8), (len(segments), 2, 1))
        )
        ends = np.asarray(item["points"], np.float32)[segments]
        self.sent += ends.nbytes
        return self._scene.add_line_segments(
            path, ends, colours, thickness=item["line_width"], thickness_units="screen"
        )

    def _mesh(self, path: str, node: _Node, before: _Node | None) -> None:
        """Show a mesh; with scalars as a file of glTF, since meshes of viser have one colour."""
        item = node.item
        faces, owners = triangles(item["faces"])
        if not len(faces):
            return
        if before is not None and before.corners is not None and np.array_equal(before.corners, faces):
            node.thinning, faces = before.thinning, before.corners
        node.corners = faces
        thinning = node.thinning = node.thinning or Thinning(item["points"], faces, MOST_POINTS)
        node.exact = len(thinning.kept) == len(item["points"])
        points = np.asarray(item["points"], np.float32)[thinning.kept]
        if "face_scalars" in item:  # corners of their own for each triangle
            colours = np.repeat(colours_of(item["face_scalars"], item)[owners[thinning.owners]], 3, axis=0)
            points = points[thinning.faces].reshape(-1, 3)
            self._coloured(path, node, before, points, np.arange(len(points)).reshape(-1, 3), colours)
        elif "scalars" in item:
            colours = colours_of(item["scalars"], item)[thinning.kept]
            self._coloured(path, node, before, points, thinning.faces, colours)
        else:
            self._plain(path, node, before, points, thinning.faces)

    def _solids(self, path: str, node: _Node, before: _Node | None) -> None:
        """Show glyphs or arrows as one mesh."""
        points, faces, owners = solids(node.item)
        if not len(faces):
            return
        node.corners = faces
        if "scalars" in node.item:
            colours = colours_of(node.item["scalars"], node.item)[owners]
            self._coloured(path, node, before, points.astype(np.float32), faces, colours)
        else:
            self._plain(path, node, before, points.astype(np.float32), faces)

    def _coloured(
        self, path: str, node: _Node, before: _Node | None, points: Array, faces: Array, colours: Array
    ) -> None:
        data = gltf(points, faces, colours, _alpha(node.item))
        self.sent += len(data)
        node.coloured = True
        if before is not None and before.coloured:
            node.handle = before.handle
            node.handle.glb_data = data
        else:
            node.handle = self._scene.add_glb(path, data, cast_shadow=False, receive_shadow=False)

    def _plain(self, path: str, node: _Node, before: _Node | None, points: Array, faces: Array) -> None:
        """Show a mesh of one colour: where its triangles and its style are the same, its positions alone are sent."""
        self.sent += points.nbytes
        alike = (
            before is not None
            and before.corners is not None
            and not before.coloured
            and _same_style(before.item, node.item)
        )
        if before is not None and alike and np.array_equal(before.corners, node.corners):  # type: ignore[arg-type]
            node.handle = before.handle
            node.handle.vertices = points
            return
        self.sent += faces.nbytes
        alpha = _alpha(node.item)
        node.handle = self._scene.add_mesh_simple(
            path,
            points,
            faces.astype(np.uint32),
            color=rgb(node.item["colour"]),
            wireframe=bool(node.item["wireframe"]),
            opacity=None if alpha == 1 else alpha,
            flat_shading=not node.item["wireframe"],
            side="double",
            cast_shadow=False,
            receive_shadow=False,
        )


def _alpha(item: Mapping[str, Any]) -> float:
    return float(item["alpha"]) * (0.35 if item["ghost"] else 1.0)


def _same_style(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("colour", "alpha", "wireframe", "ghost"))


def _unchanged(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
