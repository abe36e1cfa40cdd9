"""`PageInputs`: sliders, buttons and points to pull of one environment on a web page of viser."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from physgym.scene.inputs import InputValue

Give: TypeAlias = Callable[[int, str, InputValue], None]  # environment, name and value
STEPS = 1000  # of a slider
CONTROL = 0.15  # size of what a point is pulled by, as a part of what is seen
OWN = 1.0  # seconds after which a slider shows what the run says, and not what the person did


class PageInputs:
    """Inputs of an environment, as the person changes them and as the run says that they are.

    Args:
        server: The server of viser.
        environment: Its number.
        root: Path of the environment in the space.
        folder: The folder of its controls at the side.
        give: Takes what the person changes; called in threads of viser.
    """

    def __init__(self, server: Any, environment: int, root: str, folder: Any, give: Give) -> None:
        self._gui, self._scene, self._environment = server.gui, server.scene, environment
        self._root, self._folder, self._give = root, folder, give
        self._declared: dict[str, Mapping[str, Any]] = {}
        self._handles: dict[str, Any] = {}
        self._changed: dict[str, float] = {}  # when the person did
        self._pulled: set[str] = set()

    def update(self, inputs: Mapping[str, Mapping[str, Any]], extent: float) -> None:
        """Show the inputs of a snapshot.

        Args:
            inputs: By name, as `physgym.scene.inputs.SceneInputs` describes them.
            extent: Length of what is seen.
        """
        self._declared = dict(inputs)
        for name in [name for name in self._handles if name not in inputs]:
            self._handles.pop(name).remove()
        for name, one in inputs.items():
            if name not in self._handles:
                self._handles[name] = self._made(name, one, extent)
            elif one["kind"] == "slider" and time.monotonic() > self._changed.get(name, 0.0) + OWN:
                if self._handles[name].value != one["value"]:
                    self._handles[name].value = one["value"]
            elif one["kind"] == "pull" and name not in self._pulled:
                self._handles[name].position = tuple(one["point"])

    def close(self) -> None:
        """Take what is in the space from the page; the folder takes the rest."""
        for name, handle in self._handles.items():
            if self._declared[name]["kind"] == "pull":
                handle.remove()
        self._handles = {}

    def _made(self, name: str, one: Mapping[str, Any], extent: float) -> Any:
        if one["kind"] == "pull":
            return self._new_pull(name, one, extent)
        text = f"{one['label']} [{one['unit']}]" if one["unit"] else one["label"]
        with self._folder:
            if one["kind"] == "button":
                button = self._gui.add_button(text)
                button.on_click(lambda _: self._give(self._environment, name, True))
                return button
            step = (one["high"] - one["low"]) / STEPS
            slider = self._gui.add_slider(text, one["low"], one["high"], step, one["value"])
        slider.on_update(lambda event: self._slid(name, event))
        return slider

    def _slid(self, name: str, event: Any) -> None:
        if event.client is None:  # it was changed here
            return
        one = self._declared[name]
        self._changed[name] = time.monotonic()
        self._give(self._environment, name, min(max(float(event.target.value), one["low"]), one["high"]))

    def _new_pull(self, name: str, one: Mapping[str, Any], extent: float) -> Any:
        handle = self._scene.add_transform_controls(
            f"{self._root}/pull {name}",
            scale=CONTROL * extent,
            disable_rotations=True,
            depth_test=False,
            position=tuple(one["point"]),
        )

        @handle.on_update  # type: ignore[untyped-decorator]  # the loop of viser keeps the order of such functions
        async def _(event: Any) -> None:
            self._pull(name, np.asarray(event.target.position, np.float64), ended=event.phase == "end")

        return handle

    def _pull(self, name: str, position: Any, *, ended: bool) -> None:
        """Give the vector to where a point is pulled; none at all when it is let go."""
        one = self._declared[name]
        if ended:
            self._pulled.discard(name)
            self._give(self._environment, name, [0.0, 0.0, 0.0])
            return
        self._pulled.add(name)
        self._give(self._environment, name, pulled(position - one["point"], one["high"]))


def pulled(vector: Any, reach: float) -> list[float]:
    """Return the vector of a pull, as long as it may be at most."""
    length = float(np.linalg.norm(vector))
    return [float(one) for one in (vector if length <= reach else vector * (reach / length))]
