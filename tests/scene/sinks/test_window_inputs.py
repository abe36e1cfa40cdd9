"""Inputs of a person in a real window: pulled, slid, pressed and typed, as VTK hands it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from physgym.scene.sinks.vedo_window import VedoWindow
from physgym.testing.sinks import KeptControls, every_input, every_object, snapshot_of
from tests.support.display import display  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_a_person_changes_inputs_in_a_real_window(display):  # noqa: F811 - the fixture
    command = [sys.executable, "-m", "tests.scene.sinks.test_window_inputs"]
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    pulled, slid, pressed, typed = json.loads(done.stdout.splitlines()[-1])
    assert all(one[:2] == [0, "tip"] for one in pulled)
    lengths = [sum(part**2 for part in one[2]) ** 0.5 for one in pulled]
    assert 0 < lengths[0] < lengths[1] <= 0.5 + 1e-9
    assert lengths[-1] == 0.0
    assert slid
    assert 0.1 < slid[-1][2] < 2.0
    assert pressed == [[0, "stop", True]]
    assert typed == [[0, "push", -2.0], [0, "push", 0.0]]


def drive() -> None:
    """Open a window, and do with the mouse and a key what a person does."""
    controls, found = KeptControls(takes_inputs=True), []
    window = VedoWindow(offscreen=False, size=(800, 600))
    window.open("inputs", 1, controls=controls)
    objects = {name: one for name, one in every_object().items() if one["kind"] in ("mesh", "arrows")}
    for _ in range(2):
        window.show({0: {**snapshot_of(**objects), "inputs": every_input()}})
        window.poll()
    interactor, inputs, below = window.plotter.interactor, window._inputs, window.plotter.renderer

    def event(name: str, x: float, y: float) -> None:
        interactor.SetEventInformation(int(x), int(y))
        interactor.InvokeEvent(name)

    def drag(x: float, y: float, *moves: tuple[float, float]) -> None:
        event("MouseMoveEvent", x, y)
        event("LeftButtonPressEvent", x, y)
        for right, up in moves:
            event("MouseMoveEvent", x + right, y + up)
        event("LeftButtonReleaseEvent", x + moves[-1][0], y + moves[-1][1])
        found.append(list(controls.given))
        controls.given.clear()

    _, renderer = inputs._pulls["tip"]
    renderer.SetWorldPoint(1.0, 0.0, 0.0, 1.0)
    renderer.WorldToDisplay()
    drag(*renderer.GetDisplayPoint()[:2], (5, 5), (20, 20), (200, 200))
    slider = inputs._sliders["push"].GetRepresentation()
    ends = [one.GetComputedDisplayValue(below) for one in (slider.GetPoint1Coordinate(), slider.GetPoint2Coordinate())]
    drag((ends[0][0] + ends[1][0]) / 2, ends[0][1], (10, 0), (60, 0))
    place = inputs._buttons["stop"].GetPositionCoordinate().GetComputedViewportValue(below)
    drag(place[0] + 3, place[1] - 5, (0, 0))
    interactor.SetKeySym("Left")
    interactor.InvokeEvent("KeyPressEvent")
    interactor.InvokeEvent("KeyReleaseEvent")
    time.sleep(0.1)
    window.poll()
    found.append(controls.given)
    window.close()
    print(json.dumps(found))  # noqa: T201 - for the test


if __name__ == "__main__":
    drive()
