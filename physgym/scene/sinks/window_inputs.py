"""`WindowInputs`: sliders, buttons and points to pull of an environment in a window of vedo, and the keys for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from physgym.scene.sinks.page_inputs import OWN, Give, pulled

LINE = 0.06  # height of a slider or of the buttons, as a part of the window
MOST = 0.45  # of the window, for all of them
LET_GO = 0.06  # seconds after which a key is let go: while it is down, it comes again and again
PART = 20  # of the range of a slider, by which a key moves it
BUTTON = (0.85, 0.88, 0.93)


class WindowInputs:
    """Inputs of one environment in a window.

    Args:
        plotter: The window's object of vedo.
        give: Takes what the person changes.
        renderer: Returns the part of the window in which the environment is seen in space; None for none.
    """

    def __init__(self, plotter: Any, give: Give, renderer: Callable[[int], Any]) -> None:
        self._plotter, self._give, self._renderer = plotter, give, renderer
        self._environment = -1
        self._inputs: dict[str, Mapping[str, Any]] = {}
        self._sliders: dict[str, Any] = {}
        self._buttons: dict[str, Any] = {}
        self._pulls: dict[str, tuple[Any, Any]] = {}  # widget and the part of the window in which it is
        self._changed: dict[str, float] = {}
        self._pulled: set[str] = set()
        self._released: dict[str, float] = {}  # keys that came up, and when
        if plotter.interactor is not None:
            plotter.interactor.AddObserver("LeftButtonPressEvent", self._clicked, 10.0)
            plotter.interactor.AddObserver("KeyReleaseEvent", lambda caller, _: self.release(str(caller.GetKeySym())))
            # nothing says that the window has lost the keys; one that is still down comes again
            plotter.interactor.AddObserver("LeaveEvent", lambda *_: self.release_all())

    @property
    def height(self) -> float:
        """Return the part of the window's height that they take."""
        sliders = sum(one["kind"] == "slider" for one in self._inputs.values())
        buttons = any(one["kind"] == "button" for one in self._inputs.values())
        return min(MOST, LINE * (sliders + buttons) + LINE / 2) if self._inputs else 0.0

    def show(self, environment: int, inputs: Mapping[str, Mapping[str, Any]]) -> bool:
        """Show the inputs of a snapshot; return whether others than before are there, which take another height."""
        new = (environment, _declared(inputs)) != (self._environment, _declared(self._inputs))
        self._environment, self._inputs = environment, dict(inputs)
        if new:
            self._make()
        now = time.monotonic()
        for name, slider in self._sliders.items():
            if now > self._changed.get(name, 0.0) + OWN:
                slider.GetRepresentation().SetValue(inputs[name]["value"])
        return new

    def place_pulls(self) -> None:
        """Put the points to pull where they are, in the part of the window that shows them now."""
        renderer = self._renderer(self._environment)
        points = {name: one["point"] for name, one in self._inputs.items() if one["kind"] == "pull"}
        for name in [name for name, (_, where) in self._pulls.items() if name not in points or where is not renderer]:
            self._pulls.pop(name)[0].Off()
            self._pulled.discard(name)
        if renderer is None or self._plotter.interactor is None:
            return
        for name, point in points.items():
            if name not in self._pulls:
                self._pulls[name] = (self._new_pull(name, renderer), renderer)
            if name not in self._pulled:
                self._pulls[name][0].GetRepresentation().SetWorldPosition(point)

    def press(self, key: str) -> bool:
        """Do what a key is for; return whether it is for an input."""
        self._released.pop(key, None)
        found = self._of_key(key)
        if found is None:
            return False
        name, one = found
        if one["kind"] == "button":
            self._give(self._environment, name, True)
            return True
        end, sign = (one["low"], -1) if key == one["keys"][0] else (one["high"], 1)
        value = end if one["springs"] else self._value(name) + sign * (one["high"] - one["low"]) / PART
        self._slide(name, value)
        return True

    def release(self, key: str) -> None:
        """Take note that a key came up, which counts unless it comes again at once."""
        found = self._of_key(key)
        if found is not None and found[1]["springs"]:
            self._released[key] = time.monotonic()

    def release_all(self) -> None:
        """Take note that no key is down any more, as far as is known."""
        for one in self._inputs.values():
            for key in one["keys"]:
                self.release(key)

    def poll(self) -> None:
        """Bring back what springs, where its key was let go."""
        now = time.monotonic()
        for key in [key for key, when in self._released.items() if now > when + LET_GO]:
            del self._released[key]
            found = self._of_key(key)
            if found is not None and self._value(found[0]) != found[1]["default"]:
                self._slide(found[0], found[1]["default"])

    def close(self) -> None:
        """Take all of it away."""
        for widget, _ in self._pulls.values():
            widget.Off()
        for slider in self._sliders.values():
            slider.Off()
        for button in self._buttons.values():
            self._plotter.renderer.RemoveActor(button)
        self._sliders, self._buttons, self._pulls = {}, {}, {}
        self._pulled.clear()

    # --- making them

    def _make(self) -> None:
        self.close()
        top = self.height - LINE / 2
        for name, one in self._inputs.items():
            if one["kind"] != "slider":
                continue
            text = f"{one['label']} [{one['unit']}]" if one["unit"] else one["label"]
            self._sliders[name] = self._plotter.add_slider(
                lambda widget, _, name=name: self._slide(name, widget.GetRepresentation().GetValue()),
                one["low"],
                one["high"],
                value=one["value"],
                pos=[(0.25, top), (0.95, top)],
                title_size=0.7,
                show_value=True,
            )
            self._buttons[f"text of {name}"] = self._new_text(text, 0.02, top + LINE / 4)
            top -= LINE
        left = 0.02
        for name, one in self._inputs.items():
            if one["kind"] == "button":
                self._buttons[name] = self._new_text(f" {one['label']} ", left, top + LINE / 3, background=BUTTON)
                left += 0.05 + 0.0095 * len(one["label"])

    def _new_text(self, text: str, left: float, top: float, background: Any = None) -> Any:
        from vtkmodules.vtkRenderingCore import vtkTextActor

        found = vtkTextActor()
        found.SetInput(text)
        found.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
        found.GetPositionCoordinate().SetValue(left, top)
        style = found.GetTextProperty()
        style.SetFontSize(14)
        style.SetColor(0.15, 0.15, 0.15)
        style.SetVerticalJustificationToTop()
        if background is not None:
            style.SetBackgroundColor(*background)
            style.SetBackgroundOpacity(1)
        self._plotter.renderer.AddActor(found)
        return found

    def _new_pull(self, name: str, renderer: Any) -> Any:
        from vtkmodules.vtkInteractionWidgets import vtkHandleWidget, vtkSphereHandleRepresentation

        shape = vtkSphereHandleRepresentation()
        shape.SetHandleSize(12)
        shape.GetProperty().SetColor(0.85, 0.3, 0.2)
        shape.SetWorldPosition(self._inputs[name]["point"])
        widget: Any = vtkHandleWidget()
        widget.SetInteractor(self._plotter.interactor)
        widget.SetDefaultRenderer(renderer)
        widget.SetCurrentRenderer(renderer)
        widget.SetRepresentation(shape)
        widget.AddObserver("InteractionEvent", lambda *_: self.pull(name, shape.GetWorldPosition()))
        widget.AddObserver("EndInteractionEvent", lambda *_: self.let_go(name))
        widget.On()
        return widget

    # --- what the person does

    def pull(self, name: str, position: Any) -> None:
        """Pull a point to a position."""
        one = self._inputs[name]
        self._pulled.add(name)
        self._give(self._environment, name, pulled(np.subtract(position, one["point"]), one["high"]))

    def let_go(self, name: str) -> None:
        """Let a point go, which is where it belongs then."""
        self._pulled.discard(name)
        self._give(self._environment, name, [0.0, 0.0, 0.0])

    def _slide(self, name: str, value: float) -> None:
        one = self._inputs[name]
        value = min(max(float(value), one["low"]), one["high"])
        self._changed[name] = time.monotonic()
        self._sliders[name].GetRepresentation().SetValue(value)
        self._give(self._environment, name, value)

    def _value(self, name: str) -> float:
        return float(self._sliders[name].GetRepresentation().GetValue())

    def _clicked(self, interactor: Any, _: Any) -> None:
        x, y = interactor.GetEventPosition()
        for name, button in self._buttons.items():
            if name not in self._inputs:
                continue
            box = [0.0] * 4
            button.GetBoundingBox(self._plotter.renderer, box)
            place = button.GetPositionCoordinate().GetComputedViewportValue(self._plotter.renderer)
            if box[0] <= x - place[0] <= box[1] and box[2] <= y - place[1] <= box[3]:
                self._give(self._environment, name, True)

    def _of_key(self, key: str) -> tuple[str, Mapping[str, Any]] | None:
        return next(((name, one) for name, one in self._inputs.items() if key in one["keys"]), None)


def _declared(inputs: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return what of inputs does not change while they are there."""
    return [(name, one["kind"], one["low"], one["high"], one["label"]) for name, one in inputs.items()]
