"""`VedoWindow`: a window with a part for each environment."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from physgym.errors import ConfigError
from physgym.scene.changes import SceneSnapshot
from physgym.scene.inputs import INPUT_KINDS, InputKind
from physgym.scene.sinks.base import SceneSink
from physgym.scene.sinks.vedo_cells import CellGrid, SpaceCell, parts_of
from physgym.scene.sinks.window_inputs import WindowInputs
from physgym.scene.space import Size, quiet_vtk
from physgym.spaces import Array

log = logging.getLogger(__name__)

SIZE: Size = (1000, 700)


class VedoWindow(SceneSink):
    """A window of vedo that shows several environments, each in a part of its own.

    Keys: ``n`` and ``p`` for the next and the previous environments, ``c`` for one camera or one for each, ``0`` for
    cameras that see everything, ``q`` to close; where a run may be controlled, space pauses it and ``period`` makes a
    step. Inputs of a person stand below, those of the first environment on view that has some.

    Args:
        chosen: Environments to show, the first four by default.
        offscreen: Whether there is no window, but `pixels` alone; None for where there is no display, which is said.
        shared_camera: Whether one camera is that of all.
        size: Width and height in pixels.
        titles: A text for each environment in place of its number, looked up whenever it is drawn.
        keys: Gets each key first, by its name in X11, and returns whether it was for it.
        below: Part of the height that is left free at the bottom, from 0 to 1.
    """

    name: ClassVar[str] = "vedo"
    shows: ClassVar[tuple[InputKind, ...]] = INPUT_KINDS

    def __init__(
        self,
        chosen: Sequence[int] | None = None,
        *,
        offscreen: bool | None = None,
        shared_camera: bool = True,
        size: Size = SIZE,
        titles: Sequence[str] | None = None,
        keys: Callable[[str], bool] | None = None,
        below: float = 0.0,
    ) -> None:
        super().__init__(chosen)
        self._offscreen, self._titles, self._keys = offscreen, titles, keys
        self._grid = CellGrid(size, shared=shared_camera, below=below)
        self._plotter: Any = None
        self._snapshots: dict[int, SceneSnapshot] = {}
        self._left = False  # by the person
        self._inputs: WindowInputs | None = None

    def _opened(self) -> str:
        problem = display_problem()
        if self._offscreen is None and problem:
            log.warning("%s: the scenes are drawn where nobody sees them", problem)
        elif self._offscreen is False and problem:
            raise ConfigError(problem)
        offscreen = bool(problem) if self._offscreen is None else self._offscreen
        import vedo

        before, other = vedo.settings.enable_default_keyboard_callbacks, vedo.current_plotter()
        vedo.settings.enable_default_keyboard_callbacks = False  # those of vedo change what is drawn
        try:
            with quiet_vtk():
                self._plotter = vedo.Plotter(
                    title=self.title, size=self._grid.size, offscreen=offscreen, bg="white", interactive=False
                )
                self._plotter.window.Render()
        finally:
            vedo.settings.enable_default_keyboard_callbacks = before
            vedo.set_current_plotter(other)
        if self._plotter.interactor is not None:
            self._plotter.initialize_interactor()
            self._plotter.interactor.AddObserver("KeyPressEvent", self._pressed)
            self._plotter.interactor.AddObserver("ExitEvent", self._leave)
        if self.controls is not None and self.controls.takes_inputs:
            self._inputs = WindowInputs(self._plotter, self.controls.give, self._space)
        return "nowhere: off screen" if offscreen else "a window"

    @property
    def plotter(self) -> Any:
        """Return the window's object of vedo, for buttons and sliders of your own; None while it is not open."""
        return self._plotter

    def _shown(self, environment: int, snapshot: Mapping[str, Any]) -> None:
        self._snapshots[environment] = dict(snapshot)
        self._snapshots = {number: self._snapshots[number] for number in self._chosen if number in self._snapshots}
        try:
            self._draw(self._show_inputs() or [environment])
            if self._inputs is not None:
                self._inputs.place_pulls()
        except Exception:
            del self._snapshots[environment]
            raise

    def _show_inputs(self) -> list[int]:
        """Show the inputs of the first environment that has some; return all environments if others than before."""
        if self._inputs is None:
            return []
        having = ((number, one["inputs"]) for number, one in self._snapshots.items() if one.get("inputs"))
        number, inputs = next(having, (-1, {}))
        if not self._inputs.show(number, inputs):
            return []
        self._grid.below = self._inputs.height
        self._grid.forget(self._plotter.window)
        return list(self._snapshots)

    def _space(self, environment: int) -> Any:
        """Return the part of the window that shows an environment in space, None where there is none."""
        found = [cell for number, cells in self._grid.cells if number == environment for cell in cells]
        return next((cell.renderer for cell in found if isinstance(cell, SpaceCell)), None)

    def _draw(self, environments: Collection[int]) -> None:
        """Draw environments, or all of them where the window is to be divided again."""
        parts = {number: parts_of(one) for number, one in self._snapshots.items()}
        layout = tuple((number, tuple(kind for kind, _ in found)) for number, found in parts.items())
        anew = self._grid.arrange(self._plotter.window, layout)
        for number, cells in self._grid.cells:
            if anew or number in environments:
                title = self._title(number)
                for position, (cell, (_, panels)) in enumerate(zip(cells, parts[number], strict=True)):
                    cell.show(self._snapshots[number], panels, title if position == 0 else "")

    def _title(self, number: int) -> str:
        own = self._snapshots[number]["title"]
        if self._titles is not None:
            return ", ".join(text for text in (own, self._titles[number]) if text)
        return f"{number}: {own}" if own else str(number)

    def _drawn(self) -> None:
        with quiet_vtk():
            self._plotter.window.Render()

    def _polled(self) -> bool:
        if self._inputs is not None:
            self._inputs.poll()
        if self._plotter.interactor is not None and not self._left:
            self._plotter.interactor.ProcessEvents()
        return not self._left

    def pixels(self) -> Array:
        """Return what is drawn, shape (height, width, 3), uint8."""
        import vedo

        other = vedo.current_plotter()
        vedo.set_current_plotter(self._plotter)  # vedo takes the picture of that one
        try:
            with quiet_vtk():
                found = self._plotter.screenshot(asarray=True)
        finally:
            vedo.set_current_plotter(other)
        return np.ascontiguousarray(found[..., :3])

    def _closed(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
        plotter, self._plotter, self._inputs = self._plotter, None, None
        self._grid.cells = []
        self._snapshots = {}
        if plotter is not None:
            plotter.close()

    # --- a person

    def _leave(self, *_: Any) -> None:
        self._left = True

    def _pressed(self, interactor: Any, _: Any) -> None:
        self.press(str(interactor.GetKeySym()))

    def press(self, key: str) -> None:
        """Do what a key is for.

        Args:
            key: Its name, such as "space" or "n".
        """
        if (self._keys is not None and self._keys(key)) or (self._inputs is not None and self._inputs.press(key)):
            return
        if key in ("q", "Escape"):
            self._left = True
        elif key in ("n", "p"):
            further = len(self._chosen) if key == "n" else -len(self._chosen)
            self.choose([(number + further) % self.environments for number in self._chosen])
        elif key in ("c", "0"):
            self._grid.shared ^= key == "c"
            self._grid.forget(self._plotter.window)
            self._draw([])
            self._drawn()
        elif self.controls is not None and key == "space":
            (self.controls.resume if self.controls.paused else self.controls.pause)()
        elif self.controls is not None and key == "period":
            self.controls.step()

    def choose(self, environments: Sequence[int]) -> None:
        """Show other environments; those that are not there are left out, and nothing changes if none is left."""
        super().choose(environments)
        self._snapshots = {number: one for number, one in self._snapshots.items() if number in self._chosen}
        if self._plotter is not None:
            self._draw([])
            self._drawn()


def display_problem() -> str:
    """Return why no window can be opened; empty where one can."""
    if sys.platform in ("darwin", "win32"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "there is no display (DISPLAY is not set)"
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return "there is no display (libX11 is not installed)"
    x11.XOpenDisplay.restype, x11.XOpenDisplay.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(None)  # VTK ends the whole process where this fails
    if not connection:
        return f"there is no display (nobody answers at DISPLAY={display})"
    x11.XCloseDisplay(connection)
    return ""
