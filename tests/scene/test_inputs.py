"""Inputs of a person: what a scene declares, what values they have, and what a snapshot says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from physgym.errors import SceneError
from physgym.scene import Scene, constant, field
from physgym.scene.changes import apply, difference, is_empty, merge
from physgym.scene.inputs import SceneInput


def declared():
    scene = Scene("Beam-v0, environment 3")
    scene.slider("push", -2, 2.5, default=1, unit="N", keys=("Left", "Right"), springs=True)
    scene.button("stop", label="stop it", key="s")
    scene.pull("tip", constant("nodes")[1] + field("displacement")[1], reach=2.0, unit="mm")
    return scene


SAMPLE, CONSTANTS = {"displacement": np.ones((2, 2))}, {"nodes": np.arange(4.0).reshape(2, 2)}


def test_a_snapshot_has_the_inputs_with_their_values_as_plain_data():
    scene = declared()
    shown = scene.snapshot(SAMPLE, CONSTANTS)["inputs"]
    assert json.loads(json.dumps(shown)) == shown
    assert [(one["kind"], one["value"]) for one in shown.values()] == [
        ("slider", 1.0),
        ("button", False),
        ("pull", [0.0, 0.0, 0.0]),
    ]
    assert shown["tip"]["point"] == [3.0, 4.0, 0.0]
    assert (shown["push"]["low"], shown["push"]["high"], shown["push"]["keys"]) == (-2.0, 2.5, ["Left", "Right"])
    scene.show_inputs({"push": 2.0, "tip": [0.5, 0.0, 0.0], "gone": 1.0})
    shown = scene.snapshot(SAMPLE, CONSTANTS)["inputs"]
    assert [one["value"] for one in shown.values()] == [2.0, False, [0.5, 0.0, 0.0]]
    assert list(scene.snapshot({}, CONSTANTS)["inputs"]) == ["push", "stop"], "a point that is nowhere yet"


def test_inputs_travel_where_they_change_and_belong_to_no_dataset():
    scene = declared()
    first = scene.snapshot(SAMPLE, CONSTANTS)
    again = scene.snapshot(SAMPLE, CONSTANTS)
    assert is_empty(difference(first, again))
    assert apply(None, difference(None, first)) == first
    scene.show_inputs({"push": 2.0})
    later = scene.snapshot(SAMPLE, CONSTANTS)
    frame = difference(first, later)
    assert set(frame) - {"full", "objects", "new", "absent", "removed"} == {"inputs"}
    assert apply(first, frame) == later
    assert merge(difference(None, first), frame)["inputs"] == later["inputs"]
    assert "inputs" not in scene.declaration()
    assert "inputs" not in Scene().snapshot()
    assert "inputs" not in difference(None, Scene().snapshot())


def test_an_input_goes_through_json_and_its_handle_moves_it():
    for one in declared().inputs.values():
        assert SceneInput.from_json(json.loads(json.dumps(one.to_json()))) == one
    scene = Scene()
    tip, push = scene.pull("tip", [1.0, 2.0], reach=1.0), scene.slider("push", 2.0, 3.0)
    assert (tip.name, tip.value, push.value) == ("tip", [0.0, 0.0, 0.0], 2.0)
    tip.move(np.array([3.0, 4.0, 5.0], np.float32))
    scene.show_inputs({"push": 3.0})
    assert scene.snapshot()["inputs"]["tip"]["point"] == [3.0, 4.0, 5.0]
    assert push.value == 3.0
    with pytest.raises(SceneError, match="it is no point that is pulled"):
        push.move([0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("push", 2, 2.0),
        ("push", np.float32(0.5), 0.5),
        ("push", 2.51, None),
        ("push", np.nan, None),
        ("push", True, None),
        ("push", "1", None),
        ("push", [1.0], None),
        ("push", 10**400, None),
        ("stop", True, True),
        ("stop", 1, None),
        ("stop", False, None),
        ("tip", (1, 0, -1), [1.0, 0.0, -1.0]),
        ("tip", [2.0, 0.1, 0.0], None),
        ("tip", [0.0, 0.0], None),
        ("tip", [0.0, 0.0, np.inf], None),
        ("tip", 1.0, None),
        ("tip", [[1.0], 2.0, 3.0], None),
    ],
)
def test_values_are_checked(name, value, kept):
    one = declared().inputs[name]
    if kept is None:
        with pytest.raises(ValueError, match=f"'{name}'"):
            one.checked(value)
        return
    assert one.checked(value) == kept
    assert type(one.checked(value)) is type(kept)


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda s: s.slider("a", 1.0, 1.0), "from a finite number to a greater one, not from 1.0 to 1.0"),
        (lambda s: s.slider("a", 0.0, np.inf), "to inf"),
        (lambda s: s.slider("a", 0.0, 1.0, default=2.0), "the default 2.0 is not within 0 and 1"),
        (lambda s: s.slider("a", 0.0, 1.0, keys=("x",)), "keys of a slider"),
        (lambda s: s.slider("a", 0.0, 1.0, keys=(1, 2)), "unit, label and keys are texts"),
        (lambda s: s.slider("", 0.0, 1.0), "the name of an input is a text"),
        (lambda s: s.button("x" * 101), "of at most 100 signs"),
        (lambda s: [s.button("a"), s.slider("a", 0.0, 1.0)], "the scene has an input of this name"),
        (lambda s: [s.button(str(number)) for number in range(65)], "at most 64 inputs"),
        (lambda s: s.pull("a", [0.0, 0.0], reach=0.0), "the reach of a pull"),
        (lambda s: s.pull("a", [0.0, np.nan], reach=1.0), "a point to pull is two or three finite numbers"),
        (lambda s: s.pull("a", "here", reach=1.0), "a point to pull is two or three finite numbers"),
    ],
)
def test_what_cannot_be_declared_is_an_error_that_names_it(declare, text):
    with pytest.raises(SceneError, match=text) as failed:
        declare(Scene("Spring-v0, environment 2"))
    assert "Spring-v0, environment 2: input " in str(failed.value)


def test_a_point_that_is_none_is_an_error_of_the_picture():
    scene = Scene("Beam")
    scene.pull("tip", field("displacement"), reach=1.0)
    with pytest.raises(SceneError, match="input 'tip' of the scene: the point to pull is not two or three"):
        scene.snapshot(SAMPLE)
