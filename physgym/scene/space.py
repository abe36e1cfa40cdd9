"""Pictures of what lies in space: a camera, and the objects of a snapshot as those of vedo.

vedo is imported on first use, because a worker process that renders nothing must start fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.scene.solids import solids
from physgym.scene.style import DARK_COLOUR, colour_map
from physgym.spaces import Array

Size = tuple[int, int]

FILL = 0.72  # part of the picture that what is seen may fill; title and colour bar need the rest


@dataclass(frozen=True)
class SceneView:
    """A camera without perspective.

    Attributes:
        centre: Middle of what is seen, shape (3,).
        right: To the right in the picture, a unit vector.
        up: Upwards, likewise.
        towards: To the camera, likewise.
        scale: Half of the height of the picture, in the unit of the positions.
        reach: From the middle to the camera: outside of all that is drawn.
    """

    centre: Array
    right: Array
    up: Array
    towards: Array
    scale: float
    reach: float

    @classmethod
    def of(cls, camera: Mapping[str, Any], size: Size) -> SceneView:
        """Return the view that sees the bounds of a snapshot's camera whole, in a picture of a width and height."""
        bounds = np.asarray(camera["bounds"], np.float64)
        towards = np.asarray(camera["direction"], np.float64)
        towards = towards / np.linalg.norm(towards)
        right = np.cross(camera["up"], towards)
        right /= np.linalg.norm(right)
        up = np.cross(towards, right)
        half = (bounds[1] - bounds[0]) / 2
        # a box's half width along an axis is the sum of the magnitudes of its half edges' projections
        half_width, half_height = float(np.abs(right) @ half), float(np.abs(up) @ half)
        scale = max(half_height, half_width * size[1] / size[0]) or 1.0
        return cls(bounds.mean(axis=0), right, up, towards, scale / FILL, 4 * float(np.linalg.norm(half)) + scale)

    def place(self, camera: Any) -> None:
        """Make a VTK camera see this."""
        camera.SetParallelProjection(True)
        camera.SetFocalPoint(*self.centre)
        camera.SetPosition(*(self.centre + self.reach * self.towards))
        camera.SetViewUp(*self.up)
        camera.SetParallelScale(self.scale)
        camera.SetClippingRange(self.reach / 1000, 2 * self.reach)

    def pixels(self, points: Array, size: Size) -> Array:
        """Return where positions are in a picture: columns from the left and rows from the bottom, shape (n, 2)."""
        away = np.asarray(points, np.float64) - self.centre
        place = np.stack([away @ self.right, away @ self.up], -1) * (size[1] / 2 / self.scale)
        return place + np.array(size) / 2


def new_actor(item: Mapping[str, Any]) -> Any:
    """Return an object of a snapshot as one of vedo; None of what is no solid, as a text, or has no points."""
    import vedo

    kind, colour = item["kind"], item["colour"]
    if kind in ("text", "image", "curve") or not len(item["points"]):
        return None
    if kind == "lines":
        starts, ends = (item["points"][item["segments"][:, end]] for end in (0, 1))
        if not len(starts):
            return None
        actor = vedo.Lines(starts, ends, c=colour, lw=item["line_width"], alpha=item["alpha"])
        return _coloured(actor, item, item["scalars"][item["segments"]].ravel() if "scalars" in item else None)
    if kind in ("points", "markers"):
        actor = vedo.Points(item["points"], r=item["point_size"], c=colour, alpha=item["alpha"])
        return _coloured(actor, item, item.get("scalars"))
    if kind in ("glyphs", "arrows"):
        points, faces, owners = solids(item)
        if not len(faces):
            return None
        actor = vedo.Mesh([points, faces], c=colour, alpha=item["alpha"])
        actor.lighting(ambient=0.35, diffuse=0.75, specular=0.0)
        return _coloured(actor, item, item["scalars"][owners] if "scalars" in item else None)
    if not len(item["faces"]):
        return None
    actor = vedo.Mesh([item["points"], item["faces"]], c=colour, alpha=item["alpha"])
    if item["ghost"]:
        return actor.alpha(0.4 * item["alpha"]).lighting("off").linewidth(item["line_width"]).linecolor(colour)
    if item["wireframe"]:
        actor.wireframe().linewidth(item["line_width"])
    elif item["line_width"]:
        actor.linewidth(item["line_width"]).linecolor(DARK_COLOUR)
    if "face_scalars" in item:
        _coloured(actor, item, item["face_scalars"], "cells")
    else:
        _coloured(actor, item, item.get("scalars"))
    return actor.lighting(ambient=0.35, diffuse=0.75, specular=0.0)


def _coloured(actor: Any, item: Mapping[str, Any], scalars: Array | None, on: str = "points") -> Any:
    """Show scalars in the colours of an object of vedo; those that are not finite are seen through."""
    if scalars is not None:
        low, high = item["limits"]
        actor.cmap(colour_map(item["colours"]).name, scalars, on=on, vmin=low, vmax=high)
        actor.mapper.GetLookupTable().SetNanColor(1.0, 1.0, 1.0, 0.0)
    return actor


def space_pixels(items: Sequence[Mapping[str, Any]], view: SceneView, size: Size) -> Array:
    """Return the picture of objects without texts and markers, shape (height, width, 3), uint8."""
    import vedo

    actors = [actor for item in items if item["kind"] != "markers" and (actor := new_actor(item)) is not None]
    other = vedo.current_plotter()  # a window that the caller may have open
    with quiet_vtk():
        plotter = vedo.Plotter(offscreen=True, size=size, bg="white")
        try:
            view.place(plotter.camera)
            plotter.show(*actors, resetcam=False, interactive=False)
            frame = plotter.screenshot(asarray=True)
        finally:
            plotter.close()
            vedo.set_current_plotter(other)
    return np.ascontiguousarray(frame[..., :3])


@contextmanager
def quiet_vtk() -> Iterator[None]:
    """Keep back the warning of VTK that there is no display, after which it renders with EGL."""
    from vtkmodules.vtkCommonCore import vtkLogger

    before = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(before)
