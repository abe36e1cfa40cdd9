"""The window of vedo, off screen: what stands where, which colours, and what its keys do."""

from __future__ import annotations

import os

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.objects import Scene
from physgym.scene.sinks.base import SinkError
from physgym.scene.sinks.table import make_sink
from physgym.scene.sinks.vedo_window import VedoWindow, display_problem
from physgym.scene.values import constant, field, norm
from physgym.testing.sinks import KeptControls, SinkContract, every_input

NODES = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
CONSTANTS = {"nodes": NODES, "cells": np.array([[0, 1, 2, 3]])}
SIZE = (400, 300)
FRONT = {"direction": (0.0, -1.0, 0.0), "bounds": [[-1, -1, -1], [2, 1, 2]]}


def plate(colour="#ff0000", **style) -> Scene:
    """A square in front of the camera, which a field moves."""
    scene = Scene()
    scene.camera(**FRONT)
    scene.mesh(
        "plate", constant("nodes") + field("u"), constant("cells"), cell="quad", colour=colour, line_width=0.0, **style
    )
    return scene


def snapshot(scene: Scene, shift: float = 0.0, **fields) -> dict:
    return scene.snapshot({"u": np.full((4, 3), 1.0) * [shift, 0, 0], **fields}, CONSTANTS)


def where(pixels: np.ndarray, channel: int) -> np.ndarray:
    """Rows and columns of the pixels in which one of the colours stands out, shape (n, 2)."""
    others = [c for c in range(3) if c != channel]
    return np.argwhere((pixels[..., channel] > 120) & (pixels[..., others] < 110).all(-1))


@pytest.fixture
def window():
    made = []

    def make(environments=1, controls=None, **options) -> VedoWindow:
        made.append(VedoWindow(offscreen=True, size=SIZE, **options))
        made[-1].open("test", environments, controls=controls)
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.close()


@pytest.mark.slow
class TestVedo(SinkContract):
    def sink(self, folder, **options):
        return VedoWindow(offscreen=True, size=SIZE, **options)

    def change(self, sink, name, value):
        inputs = sink._inputs
        if name == "push":
            slider = inputs._sliders[name]
            slider.GetRepresentation().SetValue(value)
            slider.InvokeEvent("InteractionEvent")
        elif name == "stop":
            sink.press("s")
        else:
            inputs.pull(name, np.add([1.0, 0.0, 0.0], value))


@pytest.mark.slow
def test_each_environment_has_a_part_of_the_window(window):
    shown = window(4)
    shown.show({number: snapshot(plate("#ff0000" if number == 2 else "#0000ff")) for number in range(4)})
    red, blue = where(shown.pixels(), 0), where(shown.pixels(), 2)
    assert len(red) > 500
    assert red[:, 0].min() > 150  # below, to the left
    assert red[:, 1].max() < 200
    for rows, columns in (
        (slice(0, 150), slice(0, 200)),
        (slice(0, 150), slice(200, 400)),
        (slice(150, 300), slice(200, 400)),
    ):
        part = shown.pixels()[rows, columns]
        assert len(where(part, 2)) > 500
    assert len(blue) > 1500


@pytest.mark.slow
def test_what_moves_moves_and_what_is_removed_is_gone(window):
    shown, scene = window(), plate()
    shown.show({0: snapshot(scene)})
    before = where(shown.pixels(), 0)[:, 1].mean()
    shown.show({0: snapshot(scene, 0.5)})
    assert where(shown.pixels(), 0)[:, 1].mean() - before > 20
    scene.handles["plate"].remove()
    scene.points("other", constant("nodes"), colour="#0000ff", point_size=20)
    shown.show({0: snapshot(scene)})
    assert len(where(shown.pixels(), 0)) == 0
    assert len(where(shown.pixels(), 2)) > 100


@pytest.mark.slow
def test_colours_follow_scalars(window):
    scene = plate(scalars=norm(field("u")), colours="bwr", limits=(0.0, 1.0), unit="mm")
    shown = window()
    shown.show({0: snapshot(scene, 0.0)})
    assert len(where(shown.pixels()[:, :300], 2)) > 500  # low ones are blue
    shown.show({0: snapshot(scene, 1.0)})
    assert len(where(shown.pixels()[:, :300], 0)) > 500
    assert len(where(shown.pixels()[:, :300], 2)) == 0
    bar = shown.pixels()[:, 310:]
    assert len(where(bar, 0)) > 50
    assert len(where(bar, 2)) > 50


@pytest.mark.slow
def test_plots_stand_beside_what_is_in_space(window):
    scene = plate()
    scene.image("map", field("m"), colours="bwr", limits=(0.0, 1.0))
    shown = window()
    shown.show({0: snapshot(scene, m=np.ones((4, 4)))})
    red = where(shown.pixels(), 0)
    assert len(red[red[:, 1] < 200]) > 500
    assert len(red[red[:, 1] > 200]) > 500
    shown.show({0: snapshot(scene, m=np.zeros((4, 4)))})
    assert len(where(shown.pixels()[:, 200:], 2)) > 500


@pytest.mark.slow
def test_a_camera_that_somebody_moved_stays(window):
    shown, scene = window(2), plate()
    shown.show({0: snapshot(scene), 1: snapshot(plate())})
    camera = list(shown.plotter.window.GetRenderers())[-1].GetActiveCamera()
    camera.Zoom(0.5)
    small = len(where(shown.pixels(), 0))
    shown.show({0: snapshot(scene, 0.1)})
    assert len(where(shown.pixels(), 0)) == pytest.approx(small, rel=0.1)
    shown.press("0")  # see everything
    assert len(where(shown.pixels(), 0)) > 2 * small


@pytest.mark.slow
def test_keys_choose_environments_and_ask_the_run(window):
    asked, controls = [], KeptControls()
    shown = window(5, controls=controls, chosen=[0, 1], keys=lambda key: key == "mine" and not asked.append(key))
    for key in ("space", "period", "space", "mine"):
        shown.press(key)
    assert (controls.asked, asked) == (["pause", "step", "resume"], ["mine"])
    assert shown.chosen == (0, 1)
    shown.press("n")
    assert shown.chosen == (2, 3)
    shown.press("p")
    shown.press("p")
    assert shown.chosen == (3, 4)
    shown.show({0: snapshot(plate())})  # nobody looks at it
    assert len(where(shown.pixels(), 0)) == 0
    assert shown.poll()
    shown.press("q")
    assert not shown.poll()


@pytest.mark.slow
def test_titles_are_looked_up_and_a_part_below_is_left_free(window):
    titles = ["first"]
    shown = window(titles=titles, below=0.5)
    shown.show({0: snapshot(plate())})
    before = shown.pixels()
    assert len(where(before[160:], 0)) == 0
    titles[0] = "another title"
    shown.show({0: snapshot(plate())})
    assert not np.array_equal(shown.pixels()[:30, :200], before[:30, :200])


@pytest.mark.slow
def test_what_cannot_be_shown_is_an_error_that_names_the_environment(window):
    broken = snapshot(plate())
    broken["objects"]["plate"]["faces"] = "no faces"
    with pytest.raises(SinkError, match="cannot show environment 1"):
        window(2).show({0: snapshot(plate()), 1: broken})


def test_without_a_display_a_window_is_one_error(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "DISPLAY is not set" in display_problem()
    with pytest.raises(ConfigError, match="no display"):
        VedoWindow(offscreen=False).open("test", 1)
    monkeypatch.setitem(os.environ, "DISPLAY", ":7654")
    assert display_problem().startswith("there is no display (")


@pytest.mark.slow
def test_without_a_display_scenes_are_drawn_off_screen(monkeypatch, caplog):
    monkeypatch.delenv("DISPLAY", raising=False)
    shown = make_sink("vedo", size=SIZE)
    assert isinstance(shown, VedoWindow)
    shown.open("test", 1)
    assert "where nobody sees them" in caplog.text
    shown.show({0: snapshot(plate())})
    assert len(where(shown.pixels(), 0)) > 500
    assert "off screen" in shown.place
    shown.close()


@pytest.mark.slow
def test_keys_move_what_springs_back_when_they_are_let_go(window, monkeypatch):
    from physgym.scene.sinks import window_inputs

    now = [100.0]
    monkeypatch.setattr(window_inputs.time, "monotonic", lambda: now[0])
    controls = KeptControls(takes_inputs=True)
    shown = window(1, controls=controls)
    inputs = every_input()
    inputs["volume"] = inputs["push"] | {"keys": ["a", "d"], "springs": False, "label": "volume"}
    shown.show({0: {**snapshot(plate()), "inputs": inputs}})
    for key in ("Left", "d", "a", "a", "s"):
        shown.press(key)
    expected = [("push", -2.0), ("volume", 0.2), ("volume", 0.0), ("volume", -0.2), ("stop", True)]
    assert [one[1:] for one in controls.given] == [(name, pytest.approx(value)) for name, value in expected]
    for _ in range(5):  # a key that is down comes again and again
        shown._inputs.release("Left")
        now[0] += 0.01
        shown.press("Left")
        shown.poll()
    assert all(one[2] == -2.0 for one in controls.given[5:])
    shown._inputs.release_all()
    now[0] += 0.1
    shown.poll()
    assert controls.given[-1] == (0, "push", 0.0)
    count = len(controls.given)
    shown.press("space")
    assert (controls.asked, len(controls.given)) == (["pause"], count)


@pytest.mark.slow
def test_inputs_stand_below_and_leave_room_for_what_is_shown(window):
    shown = window(1, controls=KeptControls(takes_inputs=True))
    shown.show({0: snapshot(plate())})
    whole = where(shown.pixels(), 0)
    shown.show({0: {**snapshot(plate()), "inputs": every_input()}})
    seen = where(shown.pixels(), 0)
    assert seen[:, 0].max() < whole[:, 0].max()
    assert (shown.pixels()[280:] < 200).any(), "nothing stands below"
