"""Scenes: what is declared, what is refused, and what becomes of it in a snapshot."""

import json

import numpy as np
import pytest

from physgym.errors import ConfigError, SceneError
from physgym.scene import Scene, Values, constant, field, norm, prediction, stack
from physgym.scene.changes import apply, difference, is_empty, merge
from physgym.scene.style import COLOUR_MAPS, setting

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
CUBE = np.array([[x, y, z] for z in (0, 1) for x, y in SQUARE])
HEXAHEDRON = np.array([[0, 1, 2, 3, 4, 5, 6, 7]])
TETRAHEDRA = np.array([[0, 1, 2, 4], [1, 2, 4, 6]])


def beam():
    """A scene that fields move."""
    scene = Scene("Beam-v0, environment 3")
    nodes = constant("nodes")
    scene.title("displacement")
    moved = nodes + field("displacement")
    scene.mesh("beam", moved, constant("cells"), scalars=norm(field("displacement")), unit="mm")
    scene.mesh("prediction", nodes + prediction("displacement"), constant("cells"), ghost=True)
    scene.arrows("forces", moved, field("forces"), scale=0.5)
    scene.markers("fixed", nodes[[0, 3, 4, 7]], symbol="s")
    scene.text("strength", "F = {:.1f} N", values=norm(field("forces"))[0])
    return scene


CONSTANTS = {"nodes": CUBE, "cells": HEXAHEDRON}
SAMPLE = {"displacement": np.full((8, 3), 0.5, np.float32), "forces": np.tile([3.0, 4.0, 0.0], (8, 1))}


def test_fields_and_constants_move_and_colour_objects():
    shown = beam().snapshot(SAMPLE, CONSTANTS)
    objects = shown["objects"]
    assert list(objects) == ["beam", "forces", "fixed", "strength"]  # nothing is predicted
    np.testing.assert_array_equal(objects["beam"]["points"], CUBE + 0.5)
    np.testing.assert_allclose(objects["beam"]["scalars"], np.sqrt(0.75), rtol=1e-6)
    np.testing.assert_array_equal(objects["forces"]["vectors"], SAMPLE["forces"] / 2)
    np.testing.assert_array_equal(objects["fixed"]["points"], CUBE[[0, 3, 4, 7]])
    assert objects["strength"]["text"] == "F = 5.0 N"
    assert shown["title"] == "displacement"
    assert shown["camera"]["flat"] is False
    again = beam().snapshot({**SAMPLE, "prediction/displacement": SAMPLE["displacement"]}, CONSTANTS)
    assert again["objects"]["prediction"]["ghost"]


def test_before_the_first_step_what_needs_no_sample_is_drawn():
    assert list(beam().snapshot({}, CONSTANTS)["objects"]) == ["fixed"]
    assert beam().snapshot()["objects"] == {}


def test_a_declaration_goes_through_json():
    scene = beam()
    scene.camera(direction=(1, 0, 0), bounds=[[0, 0, 0], [1, 2, 3]])
    text = json.dumps(scene.declaration())
    again = Scene.from_declaration(json.loads(text))
    assert again.declaration() == scene.declaration()
    one, other = scene.snapshot(SAMPLE, CONSTANTS), again.snapshot(SAMPLE, CONSTANTS)
    assert is_empty(difference(one, other))
    assert one["camera"]["bounds"] == [[0, 0, 0], [1, 2, 3]]


def test_what_code_moves_is_not_stored():
    scene = Scene()
    scene.points("ball")
    scene.points("literal", CUBE)
    scene.points("fixed", CUBE, fixed=True)
    scene.points("moved", field("x"))
    scene.text("caption")
    assert scene.live_only == ["ball", "literal", "caption"]
    assert [item["name"] for item in scene.declaration()["objects"]] == ["fixed", "moved"]
    again = Scene.from_declaration(scene.declaration())
    np.testing.assert_array_equal(again.snapshot()["objects"]["fixed"]["points"], CUBE)


def test_handles_change_and_remove_objects():
    scene = Scene()
    ball = scene.points("ball")
    assert scene.snapshot()["objects"] == {}
    ball.update(points=[[1, 2, 3]], colour="#ff0000", point_size=9)
    shown = scene.snapshot()["objects"]["ball"]
    np.testing.assert_array_equal(shown["points"], [[1.0, 2.0, 3.0]])
    assert (shown["colour"], shown["point_size"]) == ("#ff0000", 9.0)
    assert scene.handles == {"ball": ball}
    ball.remove()
    assert scene.snapshot()["objects"] == {}
    for use in (ball.remove, lambda: ball.update(alpha=0.5)):
        with pytest.raises(SceneError, match="object 'ball' of the scene: it was removed"):
            use()
    scene.points("ball", CUBE)  # the name is free, and the old handle is not that of the new object
    with pytest.raises(SceneError, match="it was removed"):
        ball.update(points=CUBE)


def test_flat_positions_get_a_height_of_zero():
    scene = Scene()
    scene.mesh("square", SQUARE, [[0, 1, 2, 3]])
    shown = scene.snapshot()
    assert shown["camera"]["flat"] is True
    np.testing.assert_array_equal(shown["objects"]["square"]["points"][:, 2], 0)
    scene.points("above", [[0, 0, 1]])
    assert scene.snapshot()["camera"]["flat"] is False


@pytest.mark.parametrize(
    ("cells", "kind", "faces", "corners"),
    [(HEXAHEDRON, None, 6, 4), (TETRAHEDRA, None, 6, 3), (HEXAHEDRON[:, :4], "quad", 1, 4), ([[0, 1, 2]], None, 1, 3)],
)
def test_the_surface_of_cells_is_what_is_seen(cells, kind, faces, corners):
    scene = Scene()
    scene.mesh("m", CUBE, cells, cell=kind, cell_scalars=np.arange(len(cells)))
    shown = scene.snapshot()["objects"]["m"]
    assert shown["faces"].shape == (faces, corners)
    assert shown["faces"].dtype == np.int32
    assert set(shown["face_scalars"]) == set(range(len(cells)))


def test_faces_of_a_volume_point_outwards():
    scene = Scene()
    scene.mesh("hexahedron", CUBE, HEXAHEDRON)
    scene.mesh("tetrahedron", CUBE, [[0, 1, 3, 4]])
    for item in scene.snapshot()["objects"].values():
        corners = item["points"][item["faces"]]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        inside = item["points"][np.unique(item["faces"])].mean(axis=0)
        assert (((corners.mean(axis=1) - inside) * normals).sum(axis=1) > 0).all()


def test_limits_and_what_is_seen_grow_and_are_shared_by_a_group():
    scene = Scene()
    scene.image("u", field("u"), group="heat", limits="symmetric")
    scene.image("v", field("v"), group="heat")
    scene.image("w", field("u"), limits=(0, 10))
    scene.points("p", field("p"))

    def seen(u, v):
        shown = scene.snapshot({"u": np.full((2, 2), u), "v": np.full((2, 2), v), "p": np.array([[u, v, 0.0]])})
        return [shown["objects"][name]["limits"] for name in "uvw"], shown["camera"]["bounds"]

    assert seen(1.0, 3.0) == ([[-3, 3], [1, 3], [0, 10]], [[1, 3, 0], [1, 3, 0]])
    assert seen(-4.0, 2.0) == ([[-4, 4], [-4, 3], [0, 10]], [[-4, 2, 0], [1, 3, 0]])


def test_arrows_are_scaled_by_the_longest_that_was_shown():
    scene = Scene()
    scene.arrows("f", SQUARE, field("f"))
    scene.arrows("g", SQUARE, field("f"), scale=2)
    lengths = []
    for size in (1.0, 10.0, 1.0):
        objects = scene.snapshot({"f": np.array([[0, size], [0, 0], [0, size / 2], [0, 0]])})["objects"]
        lengths.append([np.linalg.norm(objects[name]["vectors"], axis=1).max() for name in "fg"])
    before, reach = np.hypot(1, 2), np.hypot(1, 20)  # of all that is seen, where the arrows of "g" end
    assert lengths == [pytest.approx(want) for want in ([0.2 * before, 2], [0.2 * reach, 20], [0.02 * reach, 2])]


def test_arrows_without_a_scale_are_seen_whole():
    scene = Scene()
    scene.arrows("f", SQUARE, field("f"))
    for turn in (1, -1, 1):
        shown = scene.snapshot({"f": np.array([[3.0 * turn, 0], [0, 1], [0, 0], [0, -2]])})
        arrows, (low, high) = shown["objects"]["f"], np.array(shown["camera"]["bounds"])
        for ends in (arrows["points"], arrows["points"] + arrows["vectors"]):
            assert (low - 1e-12 <= ends).all()
            assert (ends <= high + 1e-12).all()
    scene.camera(bounds=[[0, 0], [1, 1]])
    assert scene.snapshot({"f": np.ones((4, 2))})["camera"]["bounds"] == [[0, 0, 0], [1, 1, 0]]


def test_a_curve_has_ends():
    scene = Scene()
    scene.curve("u", field("u"), ends=(1, 3))
    shown = scene.snapshot({"u": np.array([0.0, 1.0, 0.0])})["objects"]["u"]
    assert shown["x"].tolist() == [1, 2, 3]
    assert shown["limits"] == [-0.05, 1.05]
    assert "ends" not in shown


def test_values_that_are_not_finite_are_gaps_and_positions_an_error():
    scene = Scene("Env 2")
    scene.image("u", field("u"))
    assert scene.snapshot({"u": np.array([[1.0, np.nan], [np.inf, 3.0]])})["objects"]["u"]["limits"] == [1, 3]
    scene.points("p", field("p"))
    with pytest.raises(
        SceneError, match=r"^Env 2: object 'p' of the scene: points has 1 rows that are not finite.*row 1"
    ):
        scene.snapshot({"u": np.ones((2, 2)), "p": np.array([[0, 0, 0], [1, np.nan, 0]])})


def test_expressions_compute():
    sample = {"x": np.array([1.0, 2.0, 3.0]), "m": np.arange(6.0).reshape(3, 2)}
    for values, want in (
        (2 * field("x") - 1, [1, 3, 5]),
        (1 - field("x")[1:], [-1, -2]),
        (np.array([1, 2, 3]) * field("x"), [1, 4, 9]),
        (stack(field("x")[0], 0, 5), [1, 0, 5]),
        (stack(field("x"), 0), [[1, 0], [2, 0], [3, 0]]),
        (field("m")[:, 1], [1, 3, 5]),
        (norm(field("m"))[0] + constant("c"), 8),
    ):
        assert values == Values(json.loads(json.dumps(values.to_json())))
        np.testing.assert_allclose(values.of(sample, {"c": np.array(7.0)}), want)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {"field": ""},
        {"field": "x", "constant": "y"},
        {"do": "eval", "of": [{"field": "x"}]},
        {"do": "+", "of": [{"field": "x"}]},
        {"do": "part", "of": [{"field": "x"}], "at": ["__class__"]},
        {"do": "part", "of": [{"field": "x"}], "at": []},
        {"literal": "text"},
        {"literal": [[1], [2, 3]]},
        {"literal": [float("nan")]},
    ],
)
def test_foreign_values_are_checked(tree):
    with pytest.raises(SceneError):
        Values(tree)


def test_values_within_values_have_an_end():
    tree = {"field": "x"}
    for _ in range(100):
        tree = {"do": "norm", "of": [tree]}
    with pytest.raises(SceneError, match="at most 60 operations"):
        Values(tree)


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda s: s.mesh("m", CUBE, [[0, 1, 8]]), "cell 0 has the point 8, and there are points from 0 to 7"),
        (lambda s: s.mesh("m", CUBE, [[0, 1, -1]]), "cell 0 has the point -1"),
        (lambda s: s.mesh("m", CUBE, [[0.0, 1.0, 2.0]]), "cells must be numbers of points, integers"),
        (lambda s: s.mesh("m", CUBE, [[0, 1, 2, 3, 4]]), "cells have 3, 4 or 8 corners"),
        (lambda s: s.mesh("m", CUBE, [[0, 1, 2]], cell="quad"), "'quad' have 4 corners, not 3"),
        (lambda s: s.mesh("m", CUBE, [[0, 1, 2]], cell="wedge"), "cell must be one of triangle, quad"),
        (lambda s: s.mesh("m", CUBE, [[0, 1, 2]], scalars=np.ones(7)), "a value for each of the 8 points"),
        (lambda s: s.mesh("m", CUBE[0, 0], [[0, 1, 2]]), r"points must have the shape \(n, 3\) or \(n, 2\)"),
        (lambda s: s.points("m", [["a", "b", "c"]]), "points must be numbers"),
        (lambda s: s.points("m", [[1, 2, 3], [1]]), "'m' of the scene: points is no array of numbers"),
        (lambda s: s.camera(direction=[[1, 2, 3], [1]]), "direction of the camera is no array of numbers"),
        (lambda s: s.camera(bounds=[[1, 2], [1]]), "bounds of the camera is no array of numbers"),
        (lambda s: s.points("m", CUBE * np.nan), "points has 8 rows that are not finite"),
        (lambda s: s.arrows("m", CUBE, CUBE[:3]), "vectors has 3 rows, and there are 8 points"),
        (lambda s: s.image("m", np.ones(3)), r"must have the shape \(rows, columns\)"),
        (lambda s: s.curve("m", np.ones(3), x=np.ones(4)), "a value for each of the 3 values"),
        (lambda s: s.text("m", "{:.2f}", values=[1, 2]), "has 1 places"),
        (lambda s: s.points("m", CUBE, alpha=2), "alpha must be a number from 0 to 1"),
        (lambda s: s.points("m", CUBE, colour="red"), "colour must be a text such as '#8fb8d0'"),
        (lambda s: s.points("m", CUBE, limits=(1, 1)), "limits must be 2 finite numbers, the lower ends first"),
        (lambda s: s.points("m", CUBE, ghost="yes"), "ghost must be True or False"),
        (lambda s: s.points("m", CUBE, thickness=1), "points has no setting 'thickness'; it has colour, "),
        (lambda s: s.points("", CUBE), "the name of an object must be a text"),
        (lambda s: s.camera(direction=(0, 0, 1)), "direction and up of the camera are along one line"),
        (lambda s: s.camera(bounds=[[1, 1, 1], [0, 0, 0]]), "the lower corner first"),
        (lambda s: s.title(3), "the title must be a text"),
    ],
)
def test_wrong_declarations_are_named(declare, text):
    with pytest.raises(SceneError, match=text) as error:
        declare(Scene("Env 5"))
    assert str(error.value).startswith("Env 5: ")
    assert isinstance(error.value, ConfigError)


def test_wrong_updates_change_nothing():
    scene = Scene("Env 1")
    mesh = scene.mesh("m", CUBE, HEXAHEDRON)
    moved = scene.points("moved", field("x"))
    before = scene.snapshot()
    for update, text in (
        (lambda: mesh.update(points=CUBE[:7]), "out of range|7 rows"),
        (lambda: mesh.update(points=np.concatenate([CUBE, CUBE])), "points has 16 rows, and the mesh has 8 points"),
        (lambda: mesh.update(points=CUBE + np.inf), "not finite"),
        (lambda: mesh.update(colour="blue"), "colour must be"),
        (lambda: mesh.update(vectors=CUBE), "mesh has no setting 'vectors'"),
        (lambda: moved.update(points=CUBE), "fields, constants or fixed arrays move it"),
        (lambda: scene.points("m"), "has an object of this name"),
    ):
        with pytest.raises(SceneError, match=text) as error:
            update()
        assert "Env 1: object 'm" in str(error.value)
    assert is_empty(difference(before, scene.snapshot()))
    mesh.update(points=np.concatenate([CUBE, CUBE]), cells=HEXAHEDRON + 8)
    assert len(scene.snapshot()["objects"]["m"]["points"]) == 16


@pytest.mark.parametrize("data", [None, {}, {"version": 2}, {"version": 1, "title": "", "camera": {}, "objects": [{}]}])
def test_what_is_no_declaration_is_refused(data):
    with pytest.raises(SceneError, match="declaration"):
        Scene.from_declaration(data, "dataset x")


# --- frames


def shown(**points):
    scene = Scene()
    for name, value in points.items():
        scene.points(name, np.full((2, 3), float(value)))
    return scene.snapshot()


def test_only_changed_arrays_travel():
    scene = beam()
    first = scene.snapshot(SAMPLE, CONSTANTS)
    second = scene.snapshot({**SAMPLE, "forces": -SAMPLE["forces"]}, CONSTANTS)
    frame = difference(first, second)
    assert set(frame["objects"]["forces"]) == {"vectors"}
    assert "beam" not in frame["objects"]
    assert not frame["full"]
    after = apply(first, frame)
    assert is_empty(difference(after, second))
    for name, item in after["objects"].items():
        assert item.get("faces") is first["objects"][name].get("faces")
    assert after["objects"]["beam"]["points"] is first["objects"]["beam"]["points"]
    assert first["objects"]["forces"]["vectors"] is not after["objects"]["forces"]["vectors"]


def test_samples_that_change_afterwards_change_no_snapshot():
    sample = {name: value.copy() for name, value in SAMPLE.items()}
    scene = beam()
    first = scene.snapshot(sample, CONSTANTS)
    kept = first["objects"]["forces"]["points"].copy()
    sample["displacement"][:] = 7
    sample["forces"][:] = 7
    np.testing.assert_array_equal(first["objects"]["forces"]["points"], kept)


STATES = [
    None,
    shown(a=1, b=2),
    shown(a=1),
    shown(a=3, c=1),
    shown(b=1),
    shown(b=1, a=1),
]
STATES[4]["objects"]["b"] |= {"scalars": np.arange(2.0), "limits": [0.0, 1.0]}
STATES[5]["title"] = "another"


@pytest.mark.parametrize("first", range(1, 6))
@pytest.mark.parametrize("second", range(1, 6))
def test_frames_are_applied_and_merged(first, second):
    for start in range(6):
        one, two, three = STATES[start], STATES[first], STATES[second]
        frames = difference(one, two), difference(two, three)
        assert is_empty(difference(apply(one, frames[0]), two))
        assert is_empty(difference(apply(one, merge(*frames)), three))


def test_a_frame_that_follows_nothing_is_refused():
    change = difference(STATES[1], STATES[3])
    with pytest.raises(SceneError, match="ask for a whole one"):
        apply(None, change)
    with pytest.raises(SceneError, match="changes the object 'a', which the scene does not have"):
        apply(STATES[4], difference(STATES[2], shown(a=5)))


def test_an_unknown_colour_map_is_an_error_where_it_is_declared():
    scene = Scene("Beam")
    for wrong in ("virdis", "", 5, "viridis_r_r"):
        with pytest.raises(SceneError, match="object 'u' of the scene: colours must name a colour map of matplotlib"):
            scene.image("u", colours=wrong)
    scene.image("u", colours="coolwarm_r")
    with pytest.raises(SceneError, match="colours must name"):
        scene.handles["u"].update(colours="hot2")


def test_the_names_of_colour_maps_are_those_of_matplotlib():
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    assert {name.removesuffix("_r") for name in colormaps} >= COLOUR_MAPS
    assert not [name for name in colormaps if setting("colours", name, "viridis") != name]
    colormaps.register(ListedColormap(["#000000", "#ffffff"], name="mine"))
    try:
        assert setting("colours", "mine", "viridis") == "mine"
    finally:
        colormaps.unregister("mine")
