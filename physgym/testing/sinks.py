"""The contract of what shows scenes, as tests: subclass `SinkContract`, and say how to make one.

Example::

    class TestCounting(SinkContract):
        def sink(self, folder, **options):
            return CountingSink(**options)

        def breaks(self):
            return {}  # it shows any snapshot; by default a mesh without points is an error
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.inputs import INPUT_KINDS, InputValue, SceneInputs
from physgym.scene.sinks.base import FIRST, Controls, SceneSink, SinkError

CLOSE = 5.0  # seconds within which a sink is closed
STYLE = {
    "panel": "",
    "label": "",
    "unit": "",
    "colour": "#8fb8d0",
    "colours": "viridis",
    "alpha": 1.0,
    "wireframe": False,
    "point_size": 6.0,
    "line_width": 1.0,
    "ghost": False,
}
SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
QUADS, TRIANGLES = np.array([[0, 1, 2, 3]], np.int32), np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def shown_object(kind: str, **entries: Any) -> dict[str, Any]:
    """Return an object of a snapshot with the default style."""
    return {"kind": kind, **STYLE, **entries}


def snapshot_of(title: str = "a scene", /, **objects: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot of objects by name."""
    camera = {"direction": [-0.55, -1.0, 0.55], "up": [0.0, 0.0, 1.0], "flat": False}
    return {"title": title, "camera": {**camera, "bounds": [[0.0, 0.0, -1.0], [1.0, 1.0, 1.0]]}, "objects": objects}


def every_object() -> dict[str, dict[str, Any]]:
    """Return an object of each kind, by name."""
    heights, limits = np.array([0.0, 0.5, np.nan, 1.0], np.float32), [0.0, 1.0]
    vectors = np.array([[0, 0, 1], [0, 0, 0.5], [0, 0, 0], [0, 1, 0]], np.float32)
    return {
        "mesh": shown_object("mesh", points=SQUARE, faces=QUADS, scalars=heights, limits=limits),
        "cells": shown_object(
            "mesh", points=SQUARE + 1, faces=TRIANGLES, face_scalars=np.array([0.0, 1.0]), limits=limits, wireframe=True
        ),
        "ghost": shown_object("mesh", points=SQUARE, faces=QUADS, ghost=True, alpha=0.5),
        "cloud": shown_object("points", points=SQUARE, scalars=heights, limits=limits),
        "marks": shown_object("markers", points=SQUARE, symbol="x"),
        "balls": shown_object("glyphs", points=SQUARE, shape="sphere", scale=0.1),
        "forces": shown_object("arrows", points=SQUARE, vectors=vectors),
        "edges": shown_object("lines", points=SQUARE, segments=np.array([[0, 1], [1, 2]], np.int32)),
        "note": shown_object("text", text="t = 0.5 s"),
        "place": shown_object("text", text="here", point=np.array([1.0, 0.0, 0.0], np.float32)),
        "field": shown_object("image", values=np.arange(12.0).reshape(3, 4), limits=[0.0, 11.0], panel="field"),
        "curve": shown_object(
            "curve",
            x=np.arange(4.0),
            values=np.array([0.0, 1.0, np.nan, 2.0]),
            limits=[0.0, 2.0],
            xlabel="x",
            symbol="",
            panel="curves",
        ),
    }


class KeptControls(Controls):
    """Controls that keep what was asked.

    Args:
        takes_inputs: Whether the run takes inputs.

    Attributes:
        asked: Names of the calls.
        given: Environment, name and value of the inputs.
    """

    def __init__(self, *, takes_inputs: bool = False) -> None:
        self.asked: list[str] = []
        self.given: list[tuple[int, str, InputValue]] = []
        self._takes_inputs = takes_inputs

    @property
    def paused(self) -> bool:
        """Return whether the last call was a pause or a step."""
        return bool(self.asked) and self.asked[-1] != "resume"

    def pause(self) -> None:
        """Keep that a pause was asked for."""
        self.asked.append("pause")

    def resume(self) -> None:
        """Keep that the run shall continue."""
        self.asked.append("resume")

    def step(self) -> None:
        """Keep that a step was asked for."""
        self.asked.append("step")

    @property
    def takes_inputs(self) -> bool:
        """Return whether the run takes inputs."""
        return self._takes_inputs

    def give(self, environment: int, name: str, value: InputValue) -> None:
        """Keep an input."""
        self.given.append((environment, name, value))


def every_input(**values: InputValue) -> dict[str, dict[str, Any]]:
    """Return an input of each kind as a snapshot has them, by name."""
    declared = SceneInputs()
    declared.slider("push", -2.0, 2.0, unit="N", keys=("Left", "Right"), springs=True)
    declared.button("stop", key="s")
    declared.pull("tip", [1.0, 0.0, 0.0], reach=0.5)
    places = {"tip": {"point": [1.0, 0.0, 0.0]}}
    found = {name: one.to_json() | {"value": values.get(name, one.rest)} for name, one in declared.inputs.items()}
    return {name: one | places.get(name, {}) for name, one in found.items()}


class SinkContract:
    """Tests that a sink shows what it is given, and ends well.

    A sink that shows inputs of a person, `SceneSink.shows`, says how one is changed in it: `change`.
    """

    def sink(self, folder: Path, **options: Any) -> SceneSink:
        """Return a sink that is not open, with the options `chosen`; it may write to a folder of the test."""
        raise NotImplementedError

    def change(self, sink: SceneSink, name: str, value: InputValue) -> None:
        """Change an input of environment 1 as a person does in the sink: those of `every_input`."""
        raise NotImplementedError

    def breaks(self) -> dict[str, Any]:
        """Return a snapshot that the sink cannot show; empty if there is none."""
        return snapshot_of(broken={"kind": "mesh"})

    def test_it_shows_the_first_environments_if_nobody_chooses(self, tmp_path: Path) -> None:
        """Check what is chosen, and where it is seen."""
        sink = self.sink(tmp_path)
        assert (sink.chosen, sink.place) == ((), "")
        sink.open("springs", 64)
        try:
            assert sink.chosen == tuple(range(FIRST))
            assert sink.place
            assert sink.poll()
        finally:
            sink.close()

    def test_every_kind_of_object_is_shown(self, tmp_path: Path) -> None:
        """Check that nothing that a scene declares is refused, gaps and objects without points included."""
        sink = self.sink(tmp_path, chosen=[1])
        sink.open("objects", 2)
        try:
            sink.show({1: snapshot_of(**every_object())})
            for name, item in every_object().items():
                sink.show({1: snapshot_of(name, **{name: item})})
            none = np.zeros((0, 3), np.float32)
            sink.show({1: snapshot_of("nothing", points=shown_object("points", points=none))})
            sink.show({1: {"title": "nothing", "camera": {"flat": False}, "objects": {}}})
            assert sink.poll()
        finally:
            sink.close()

    def test_objects_move_come_and_go(self, tmp_path: Path) -> None:
        """Check that arrays change, topology changes, and objects are removed or become others."""
        sink = self.sink(tmp_path)
        sink.open("objects", 2)
        try:
            mesh = shown_object("mesh", points=SQUARE, faces=QUADS)
            for step in range(3):
                sink.show({0: snapshot_of(mesh={**mesh, "points": SQUARE + step}), 1: snapshot_of(mesh=mesh)})
            sink.show({0: snapshot_of(mesh={**mesh, "faces": TRIANGLES})})
            sink.show({0: snapshot_of(mesh=shown_object("points", points=SQUARE[:2]))})
            sink.show({0: snapshot_of(other=mesh)})
            assert sink.poll()
        finally:
            sink.close()

    @pytest.mark.parametrize("takes", [True, False], ids=["a run", "who only looks"])
    def test_inputs_are_offered_where_the_run_takes_them(self, tmp_path: Path, takes: bool) -> None:
        """Check that each kind that the sink shows can be changed, and others and those of nobody are left alone."""
        sink, controls = self.sink(tmp_path, chosen=[1]), KeptControls(takes_inputs=takes)
        assert set(sink.shows) <= set(INPUT_KINDS)
        sink.open("springs", 2, controls=controls)
        try:
            given: dict[str, InputValue] = {"push": 1.5, "stop": True, "tip": [0.0, 0.25, 0.0]}
            pulled: list[float] = [0.1, 0.0, 0.0]
            for shown in (every_input(), every_input(push=1.0), every_input(push=1.0, tip=pulled)):
                sink.show({1: {**snapshot_of(**every_object()), "inputs": shown}})
            if takes:
                for name, one in every_input().items():
                    if one["kind"] in sink.shows:
                        self.change(sink, name, given[name])
            assert sink.poll()
            wanted = [name for name, one in every_input().items() if takes and one["kind"] in sink.shows]
            assert [one[:2] for one in controls.given] == [(1, name) for name in wanted]
            for _, name, value in controls.given:
                np.testing.assert_allclose(np.array(value, np.float64), np.array(given[name], np.float64), atol=0.01)
            sink.show({1: snapshot_of(**every_object())})  # no inputs any more
            assert sink.poll()
        finally:
            sink.close()

    def test_what_is_not_chosen_is_not_shown(self, tmp_path: Path) -> None:
        """Check that snapshots of other environments are left out, and others may be chosen."""
        sink = self.sink(tmp_path, chosen=[2, 0])
        sink.open("springs", 3)
        try:
            assert list(sink.chosen) == [0, 2]
            sink.show({1: self.breaks()})
            sink.choose([1, 7])
            assert list(sink.chosen) == [1]
            sink.choose([7])
            assert list(sink.chosen) == [1]
            sink.show({1: snapshot_of(**every_object())})
        finally:
            sink.close()

    def test_what_cannot_be_shown_is_one_error_and_the_next_is_shown(self, tmp_path: Path) -> None:
        """Check that an error names the environment."""
        sink = self.sink(tmp_path)
        with pytest.raises(SinkError, match="is not open"):
            sink.show({0: snapshot_of()})
        sink.open("springs", 2)
        try:
            if broken := self.breaks():
                with pytest.raises(SinkError, match="environment 1"):
                    sink.show({1: broken})
            sink.show({1: snapshot_of(**every_object())})
            assert sink.poll()
        finally:
            sink.close()

    @pytest.mark.parametrize("chosen", [[], [-1], [0.5], [3]])
    def test_wrong_environments_are_refused(self, tmp_path: Path, chosen: list[Any]) -> None:
        """Check that an environment that is not there is an error before anything is made."""
        with pytest.raises(ConfigError):
            self.sink(tmp_path, chosen=chosen).open("springs", 3)

    def test_it_ends_within_seconds_and_once(self, tmp_path: Path) -> None:
        """Check that closing is bounded and repeatable, and nothing is shown afterwards."""
        unused = self.sink(tmp_path / "unused")
        unused.close()
        sink = self.sink(tmp_path)
        sink.open("springs", 1, controls=KeptControls())
        sink.show({0: snapshot_of(**every_object())})
        start = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - start < CLOSE
        assert not sink.poll()
        with pytest.raises(SinkError):
            sink.show({0: snapshot_of()})
        with pytest.raises(ConfigError, match="opened before"):
            sink.open("springs", 1)
