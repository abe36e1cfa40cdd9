"""Scenes of prediction errors: of every kind of object what is compared, and in which colours."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.scene.objects import Scene
from physgym.scene.prediction_error import AS_DRAWN, PredictionErrors, common_unit
from physgym.scene.values import Values, constant, factor_of, field, norm, present, stack

NODES = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
CONSTANTS = {"nodes": NODES, "cells": np.array([[0, 1, 2, 3]])}
MOVED = np.zeros((4, 3))
MOVED[2] = [0.0, 3.0, 4.0]


def scene() -> Scene:
    made = Scene()
    made.mesh(
        "plate", constant("nodes") + field("u"), constant("cells"), cell="quad", scalars=norm(field("u")), unit="mm"
    )
    made.points("hot", constant("nodes"), scalars=field("t"), unit="K")
    made.arrows("forces", constant("nodes"), field("f"))
    made.markers("fixed", constant("nodes"))
    made.image("map", field("m"))
    made.curve("line", field("c"))
    made.text("note", "t = {:.1f}", values=field("t")[0])
    return made


TRUE = {
    "u": np.zeros((4, 3)),
    "t": np.arange(4.0),
    "f": np.ones((4, 3)),
    "m": np.arange(6.0).reshape(2, 3),
    "c": np.arange(5.0),
}


UNITS = {"u": "mm", "t": "K", "f": "N", "m": "", "c": ""}


def compared(made: Scene, *names: str) -> PredictionErrors:
    return PredictionErrors([one for one in made.declaration()["objects"] if one["name"] in names], UNITS)


def errors(predicted: dict[str, np.ndarray], *names: str) -> dict[str, dict]:
    made = scene()
    true, network = (made.snapshot(row, CONSTANTS) for row in (TRUE, {**TRUE, **predicted}))
    return compared(made, *names).snapshot(true, network)["objects"]


def test_a_mesh_that_is_moved_has_the_distance_of_each_point_as_colour():
    plate = errors({"u": MOVED}, "plate")["plate"]
    np.testing.assert_allclose(plate["points"], NODES)
    np.testing.assert_allclose(plate["scalars"], [0, 0, 5, 0])
    assert (plate["limits"], plate["unit"], plate["colours"]) == ([0.0, 5.0], "mm", "viridis")


def test_scalars_images_and_curves_are_differences_with_a_sign():
    found = errors({"t": np.arange(4.0) - 2, "m": TRUE["m"] + 1, "c": TRUE["c"] * 2}, "hot", "map", "line", "note")
    np.testing.assert_allclose(found["hot"]["scalars"], -2)
    assert (found["hot"]["limits"], found["hot"]["unit"], found["hot"]["colours"]) == ([-2.0, 2.0], "K", "RdBu_r")
    np.testing.assert_allclose(found["map"]["values"], 1)
    assert (found["map"]["limits"], found["map"]["colours"]) == ([-1.0, 1.0], "RdBu_r")
    np.testing.assert_allclose(found["line"]["values"], np.arange(5.0))
    assert found["line"]["limits"] == [-4.0, 4.0]
    assert "note" not in found


def test_arrows_have_the_length_of_the_difference_as_colour():
    arrows = errors({"f": np.ones((4, 3)) * [1, 1, 3]}, "forces")["forces"]
    np.testing.assert_allclose(arrows["scalars"], 2)
    np.testing.assert_allclose(arrows["vectors"] / arrows["scale"], 1)  # however long they are drawn


def test_arrows_that_move_along_with_what_they_pull_at_stay_as_they_are():
    made = Scene()
    made.arrows("forces", constant("nodes") + field("u"), field("f"), colour="#112233")
    true, network = (made.snapshot({**TRUE, "u": u}, CONSTANTS) for u in (TRUE["u"], MOVED))
    arrows = compared(made, "forces").snapshot(true, network)["objects"]["forces"]
    assert "scalars" not in arrows
    np.testing.assert_array_equal(arrows["points"], NODES)


def test_what_is_not_predicted_stays_but_for_plots():
    assert set(errors({"u": MOVED}, "plate")) == {"plate", "hot", "forces", "fixed", "note"}


def test_a_perfect_prediction_is_an_error_of_zero():
    found = errors({}, "plate", "map")
    np.testing.assert_array_equal(found["plate"]["scalars"], 0)
    np.testing.assert_array_equal(found["map"]["values"], 0)
    assert found["map"]["limits"] == [-1.0, 1.0]


def test_colours_mean_the_same_from_one_sample_to_the_next():
    made = scene()
    true = made.snapshot(TRUE, CONSTANTS)
    map_alone = compared(made, "map")
    limits = []
    for size in (1, 3, 2):
        found = map_alone.snapshot(true, made.snapshot({**TRUE, "m": TRUE["m"] + size}, CONSTANTS))
        limits.append(found["objects"]["map"]["limits"])
    assert limits == [[-1.0, 1.0], [-3.0, 3.0], [-3.0, 3.0]]


def test_a_prediction_that_is_no_number_is_a_gap():
    line = errors({"c": np.array([0.0, np.nan, 2, 3, 4])}, "line")["line"]
    assert np.isnan(line["values"][1])
    assert line["limits"] == [-1.0, 1.0]


def test_the_network_shows_plots_of_what_it_predicts():
    made = scene()
    made.curve("other", field("c"), panel="elsewhere")
    made.curve("same axes", field("c"), panel="")
    found = compared(made, "line").network(made.snapshot(TRUE, CONSTANTS))["objects"]
    assert set(found) == {"plate", "hot", "forces", "fixed", "note", "line", "same axes"}


@pytest.mark.parametrize("kind", ["map", "line"])
def test_shapes_that_differ_are_not_compared(kind):
    values = {"map": {"m": np.zeros((3, 3))}, "line": {"c": np.zeros(7)}}[kind]
    assert kind not in errors(values, kind)


def test_pictures_in_colours_of_their_own_differ_by_colour():
    true, network = ({"kind": "image", "values": np.full((2, 2, 3), level, np.uint8)} for level in (200, 10))
    one, other = ({"title": "", "camera": {}, "objects": {"camera": item}} for item in (true, network))
    found = PredictionErrors([{"name": "camera", "arrays": {}}], {}).snapshot(one, other)["objects"]["camera"]
    assert found["values"].dtype == np.uint8
    assert (found["values"] == 190).all()
    assert "limits" not in found


def test_a_distance_has_a_unit_where_there_is_one_alone():
    assert [common_unit(units) for units in (["m"], ["m", "m"], ["m", "K"], ["m, m/s"], [])] == ["m", "m", "", "", ""]


@pytest.mark.parametrize(
    ("points", "sizes", "unit"),
    [
        (constant("nodes") + 10 * field("u"), [0, 0, 5, 0], "mm"),
        (constant("nodes") - field("u") * 0.5 * 4, [0, 0, 5, 0], "mm"),
        (constant("nodes") + field("u") * [10.0, 10.0, 0.0], [0, 0, 30, 0], AS_DRAWN),
        (constant("nodes") + constant("nodes") * field("u"), [0, 0, 3, 0], AS_DRAWN),
    ],
)
def test_a_distance_is_that_of_the_fields_however_much_a_picture_enlarges_it(points, sizes, unit):
    made = Scene()
    made.points("tower", points)
    for moved, want in ((MOVED, sizes), (TRUE["u"], [0, 0, 0, 0])):
        true, network = (made.snapshot({"u": u}, CONSTANTS) for u in (TRUE["u"], moved))
        tower = compared(made, "tower").snapshot(true, network)["objects"]["tower"]
        np.testing.assert_allclose(tower["scalars"], want)
        assert tower["unit"] == unit


def test_arrows_are_compared_in_the_unit_of_the_field_that_they_scale():
    made = Scene()
    made.arrows("forces", constant("nodes"), 0.001 * field("f"))
    true, network = (made.snapshot({"f": f}, CONSTANTS) for f in (TRUE["f"], TRUE["f"] * [1, 1, 3]))
    arrows = compared(made, "forces").snapshot(true, network)["objects"]["forces"]
    np.testing.assert_allclose(arrows["scalars"], 2)
    assert arrows["unit"] == "N"


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        (field("u"), 1.0),
        (field("other") + constant("nodes"), 0.0),
        (-3 * (constant("nodes") - 2 * field("u")), 6.0),
        (stack(field("x"), 2 * field("u")[:, 1], 0.0), 2.0),
        (stack(field("u")[:, 0], 2 * field("u")[:, 1]), None),
        (present(4 * field("u"), field("mask")), 4.0),
        (present(constant("nodes"), field("u")), None),
        (field("u") + 2 * field("v"), None),
        (field("u") * field("v"), None),
        (field("other") * field("u"), None),
        (norm(field("u")), None),
    ],
)
def test_a_factor_is_known_of_multiples_of_fields_alone(values: Values, factor):
    assert factor_of(values.to_json(), {"u", "v"}) == factor
