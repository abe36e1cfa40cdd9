"""Parts of a vedo window: what a camera sees of a scene, and its plots as a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physgym.scene.changes import SceneSnapshot, same
from physgym.scene.frames import draw
from physgym.scene.plots import ScenePanel, panels_of
from physgym.scene.space import SceneView, Size, new_actor
from physgym.spaces import Array

MOVING = {"points", "scalars", "face_scalars", "limits"}  # what an object of vedo takes without being made anew
SMALLEST = 32  # pixels of a picture
TEXT = 13  # size of a text
DARK = (0.15, 0.15, 0.15)

CellLayout = tuple[tuple[int, tuple[str, ...]], ...]  # of each environment the kinds of its parts


class Cell(ABC):
    """A rectangle of the window.

    Args:
        box: Left, bottom, right and top, from 0 to 1.

    Attributes:
        renderer: That of VTK.
    """

    def __init__(self, box: Sequence[float]) -> None:
        from vtkmodules.vtkRenderingCore import vtkRenderer

        self.renderer: Any = vtkRenderer()
        self.renderer.SetViewport(*box)
        self.renderer.SetBackground(1, 1, 1)

    @abstractmethod
    def show(self, snapshot: SceneSnapshot, panels: Sequence[ScenePanel], title: str) -> None:
        """Show panels of a snapshot."""

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        width, height = self.renderer.GetSize()
        return max(width, SMALLEST), max(height, SMALLEST)


class PlotCell(Cell):
    """Curves, images and what lies in a plane, drawn by matplotlib.

    Args:
        box: Left, bottom, right and top, from 0 to 1.
    """

    def __init__(self, box: Sequence[float]) -> None:
        super().__init__(box)
        from vtkmodules.vtkRenderingCore import vtkTexture

        self._texture: Any = vtkTexture()
        self._texture.InterpolateOn()
        self.renderer.SetBackgroundTexture(self._texture)
        self.renderer.TexturedBackgroundOn()
        self.renderer.InteractiveOff()

    def show(self, snapshot: SceneSnapshot, panels: Sequence[ScenePanel], title: str) -> None:
        """Show panels of a snapshot."""
        items = [item for panel in panels for item in panel.items]
        objects = {name: item for name, item in snapshot["objects"].items() if any(item is one for one in items)}
        self._texture.SetInputDataObject(_image(draw([{**snapshot, "objects": objects}], self.size, titles=[title])))
        self._texture.Modified()


class SpaceCell(Cell):
    """Objects in space as a camera sees them; a person may turn it.

    Args:
        box: Left, bottom, right and top, from 0 to 1.
        camera: A camera that others use as well; None for one of its own.
    """

    def __init__(self, box: Sequence[float], camera: Any = None) -> None:
        super().__init__(box)
        if camera is not None:
            self.renderer.SetActiveCamera(camera)
        self._items: list[Mapping[str, Any]] = []
        self._actors: list[Any] = []
        self._bar: Any = None
        self._text = _corner_text(self.renderer)
        self._placed: tuple[Any, ...] | None = None  # where the camera was put, as long as nobody moves it

    def show(self, snapshot: SceneSnapshot, panels: Sequence[ScenePanel], title: str) -> None:
        """Show the panel of a snapshot."""
        (panel,) = panels
        self._place_camera(panel.camera)
        for number in range(len(panel.items), len(self._items)):
            self._remove(self._actors[number])
        self._actors = [
            self._updated(number, item) if number < len(self._items) else self._added(item)
            for number, item in enumerate(panel.items)
        ]
        self._items = list(panel.items)
        self._show_colours()
        self._text.SetInput("\n".join(text for text in (title, panel.name, panel.corner_text) if text))
        self.renderer.ResetCameraClippingRange()

    def _place_camera(self, said: Mapping[str, Any]) -> None:
        """Make the camera see everything, unless a person has moved it."""
        camera = self.renderer.GetActiveCamera()
        if self._placed is not None and self._placed != _position(camera):
            return
        SceneView.of(said, self.size).place(camera)
        self._placed = _position(camera)

    def _updated(self, number: int, item: Mapping[str, Any]) -> Any:
        before, actor = self._items[number], self._actors[number]
        changed = {key for key in before.keys() | item.keys() if not same(before.get(key), item.get(key))}
        if not changed:
            return actor
        moves = item["kind"] == "mesh" and changed <= MOVING and actor is not None
        if moves and before["points"].shape == item["points"].shape and before.keys() == item.keys():
            actor.points = item["points"]
            _colour(actor, item)
            return actor
        self._remove(actor)
        return self._added(item)

    def _added(self, item: Mapping[str, Any]) -> Any:
        actor = _new_text(item) if item["kind"] == "text" and "point" in item else new_actor(item)
        if actor is not None:
            self.renderer.AddActor(_prop(actor))
        return actor

    def _remove(self, actor: Any) -> None:
        if actor is not None:
            self.renderer.RemoveActor(_prop(actor))

    def _show_colours(self) -> None:
        """Draw the colour scale of the first object that has one."""
        found = ((actor, i) for actor, i in zip(self._actors, self._items, strict=True) if actor is not None)
        shown = next(((actor, i) for actor, i in found if _scalars(i) is not None and not i["ghost"]), None)
        if shown is None:
            if self._bar is not None:
                self.renderer.RemoveActor(self._bar)
                self._bar = None
            return
        if self._bar is None:
            self._bar = _colour_bar()
            self.renderer.AddActor(self._bar)
        actor, item = shown
        self._bar.SetLookupTable(actor.mapper.GetLookupTable())
        self._bar.SetTitle(item["unit"])


class CellGrid:
    """Parts of a window, and which environment each of them is of.

    Args:
        size: Width and height of the window in pixels, before it is open.
        shared: Whether one camera is that of all.
        below: Part of the height that is left free at the bottom.

    Attributes:
        size: The same.
        shared: The same, for parts that are made from then on.
        below: The same, for parts that are made from then on.
        cells: The parts of each environment, with its number.
    """

    def __init__(self, size: Size, *, shared: bool, below: float) -> None:
        self.size, self.shared, self.below = size, shared, below
        self.cells: list[tuple[int, list[Cell]]] = []
        self._layout: CellLayout = ()

    def forget(self, window: Any) -> None:
        """Take all parts away."""
        for _, cells in self.cells:
            for cell in cells:
                window.RemoveRenderer(cell.renderer)
        self.cells, self._layout = [], ()

    def arrange(self, window: Any, layout: CellLayout) -> bool:
        """Divide a window among environments; return False where they and their parts are those of before."""
        if layout == self._layout:
            return False
        self.forget(window)
        self._layout, camera = layout, None
        for (number, kinds), box in zip(layout, _grid(len(layout), self.below), strict=True):
            cells: list[Cell] = []
            for kind, part in zip(kinds, _divided(box, len(kinds), window.GetSize()), strict=True):
                if kind == "space":
                    cells.append(SpaceCell(part, camera))
                    camera = cells[-1].renderer.GetActiveCamera() if self.shared else None
                else:
                    cells.append(PlotCell(part))
                window.AddRenderer(cells[-1].renderer)
            self.cells.append((number, cells))
        return True


def parts_of(snapshot: SceneSnapshot) -> list[tuple[str, list[ScenePanel]]]:
    """Return the parts of a scene: one for each panel of space, and one for all others."""
    panels = panels_of(snapshot)
    plots = [panel for panel in panels if panel.kind != "space"]
    found = [("space", [panel]) for panel in panels if panel.kind == "space"]
    return found + ([("plots", plots)] if plots or not found else [])


def _grid(count: int, below: float) -> list[tuple[float, float, float, float]]:
    """Return left, bottom, right and top of so many parts of a window, row by row from the top."""
    columns = int(np.ceil(np.sqrt(count))) if count > 3 else count
    rows = -(-count // columns) if count else 0
    height = (1 - below) / max(rows, 1)
    places = [divmod(number, columns) for number in range(count)]
    return [(c / columns, 1 - (r + 1) * height, (c + 1) / columns, 1 - r * height) for r, c in places]


def _divided(box: tuple[float, float, float, float], count: int, size: Size) -> list[tuple[float, float, float, float]]:
    """Return so many parts of a box, along its longer side."""
    left, bottom, right, top = box
    if (right - left) * size[0] > (top - bottom) * size[1]:
        edges = np.linspace(left, right, count + 1)
        return [(float(edges[i]), bottom, float(edges[i + 1]), top) for i in range(count)]
    edges = np.linspace(top, bottom, count + 1)
    return [(left, float(edges[i + 1]), right, float(edges[i])) for i in range(count)]


def _scalars(item: Mapping[str, Any]) -> Array | None:
    found: Array | None = item.get("scalars", item.get("face_scalars"))
    return found


def _colour(actor: Any, item: Mapping[str, Any]) -> None:
    """Give the scalars of a mesh their colours."""
    if (scalars := _scalars(item)) is not None:
        low, high = item["limits"]
        actor.cmap(item["colours"], scalars, on="points" if "scalars" in item else "cells", vmin=low, vmax=high)


def _position(camera: Any) -> tuple[Any, ...]:
    seen = camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp(), camera.GetParallelScale()
    return tuple(np.round(np.hstack(seen), 9).tolist())


def _prop(actor: Any) -> Any:
    """Return what VTK draws of an object of vedo, or itself."""
    return actor.actor if hasattr(actor, "actor") else actor


def _new_text(item: Mapping[str, Any]) -> Any:
    import vedo
    from vtkmodules.vtkRenderingCore import vtkBillboardTextActor3D

    found = vtkBillboardTextActor3D()
    found.SetInput(item["text"])
    found.SetPosition(*item["point"])
    found.GetTextProperty().SetFontSize(TEXT)
    found.GetTextProperty().SetColor(*vedo.get_color(item["colour"]))
    return found


def _corner_text(renderer: Any) -> Any:
    from vtkmodules.vtkRenderingCore import vtkTextActor

    found = vtkTextActor()
    found.GetTextProperty().SetFontSize(TEXT)
    found.GetTextProperty().SetColor(*DARK)
    found.GetTextProperty().SetVerticalJustificationToTop()
    found.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    found.GetPositionCoordinate().SetValue(0.01, 0.99)
    renderer.AddActor(found)
    return found


def _colour_bar() -> Any:
    from vtkmodules.vtkRenderingAnnotation import vtkScalarBarActor

    found = vtkScalarBarActor()
    found.SetPosition(0.8, 0.2)
    found.SetWidth(0.18)
    found.SetHeight(0.6)
    found.SetBarRatio(0.25)
    found.SetNumberOfLabels(4)
    found.SetLabelFormat("%.3g")
    found.UnconstrainedFontSizeOn()
    for text in (found.GetLabelTextProperty(), found.GetTitleTextProperty()):
        text.SetFontSize(TEXT - 1)
        text.SetColor(*DARK)
        text.ItalicOff()
        text.BoldOff()
        text.ShadowOff()
    return found


def _image(pixels: Array) -> Any:
    """Return a picture as data of VTK, whose first row is the lowest one."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData

    height, width = pixels.shape[:2]
    found = vtkImageData()
    found.SetDimensions(width, height, 1)
    values = np.ascontiguousarray(pixels[::-1]).reshape(-1, 3)
    scalars = numpy_to_vtk(values, deep=True)  # type: ignore[no-untyped-call]
    found.GetPointData().SetScalars(scalars)
    return found
