"""The scene of samples whose simulation declares none."""

import numpy as np
import pytest

from physgym.sample import Field, SampleSpec
from physgym.scene import draw
from physgym.scene.default import default_scene

NODES = np.array([[x, y, z] for z in (0.0, 1.0) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))])
MESH = {"nodes": NODES, "cells": np.arange(8)[None]}
EMPTY = np.zeros((480, 640, 3), np.uint8)


def spec(**shapes):
    return SampleSpec(
        [
            Field(name, *((shape, "f4", "target") if isinstance(shape, tuple) else (shape[0], shape[1], "input")))
            for name, shape in shapes.items()
        ]
    )


def shown(fields, constants=None, **values):
    sample = {f.name: np.ones(f.shape, f.dtype) for f in fields.values()} | values
    return default_scene(fields, constants).snapshot(sample, constants)["objects"]


def test_fields_are_curves_images_and_texts_by_their_shapes():
    objects = shown(
        spec(
            u=(100,),
            few=(3,),
            grid=(20, 30),
            columns=(50, 2),
            rows=(2, 50),
            number=(),
            cloud=(9, 9, 9),
            text=[(), "U9"],
        )
    )
    kinds = {name: item["kind"] for name, item in objects.items()}
    assert kinds == {
        "u": "curve",
        "few": "text",
        "grid": "image",
        "columns[0]": "curve",
        "columns[1]": "curve",
        "rows[0]": "curve",
        "rows[1]": "curve",
        "number": "text",
        "cloud": "image",
    }
    assert objects["few"]["text"] == "few = (1, 1, 1)"
    assert objects["number"]["text"] == "number = 1"
    assert objects["columns[0]"]["panel"] == objects["rows[0]"]["panel"] != objects["u"]["panel"]
    assert objects["cloud"]["values"].shape == (9, 9)


def test_a_single_value_that_feeds_a_network_is_a_text():
    objects = shown(spec(outlet=[(1,), "f4"], level=(1,)))
    assert objects["outlet"]["text"] == "outlet = 1"
    assert objects["level"]["text"] == "level = 1"
    assert "level'" in default_scene(spec(outlet=[(1,), "f4"], level=(1,))).handles  # its curve over time
    assert "outlet'" not in default_scene(spec(outlet=[(1,), "f4"], level=(1,))).handles  # perhaps a parameter


def test_numbers_take_no_place_of_plots_and_have_no_unit_without_dimension():
    inputs = [Field(f"p{number}", (), "f4", "input", unit="1") for number in range(9)]
    targets = [Field("outlet", (), "f4", "target", unit="1"), Field("u", (40,), "f4", "target", unit="1")]
    fields = SampleSpec([*inputs, *targets])
    objects = shown(fields, **{"prediction/outlet": np.float32(2)})
    assert [f"p{number}" for number in range(9)] == [name for name in objects if name[0] == "p" and name[1].isdigit()]
    assert objects["p0"]["text"] == "p0 = 1"
    assert objects["outlet"]["text"] == "outlet = 1"
    assert objects["prediction/outlet"]["text"] == "outlet = 2, predicted"
    assert objects["u"]["kind"] == "curve"
    assert (objects["u"]["unit"], objects["u"]["xlabel"]) == ("", "index")


def test_numbers_below_curves_take_as_little_room_as_they_need(monkeypatch):
    figures = []
    monkeypatch.setattr("physgym.scene.frames.figure_frame", lambda figure: figures.append(figure) or EMPTY)
    fields = spec(u=(40,), level=())
    sample = {f.name: np.ones(f.shape, f.dtype) for f in fields.values()}
    draw([default_scene(fields).snapshot(sample)], (640, 480))
    figures[0].canvas.draw()
    below, curves = figures[0].axes
    assert [text.get_text() for text in below.texts] == ["level = 1"]
    assert below.texts[0].get_window_extent().y1 < curves.get_window_extent().y0
    assert below.texts[0].get_window_extent().y0 >= 0
    assert curves.get_window_extent().height > 0.6 * 480


def test_each_of_several_panels_names_its_curves(monkeypatch):
    figures = []
    monkeypatch.setattr("physgym.scene.frames.figure_frame", lambda figure: figures.append(figure) or EMPTY)
    fields = spec(state=(40,), rope=(20,), swing=(20,))
    sample = {f.name: np.ones(f.shape, f.dtype) for f in fields.values()}
    draw([default_scene(fields).snapshot(sample)], (640, 480))
    one, two = figures[0].axes
    assert (one.get_title(), one.get_legend()) == ("state", None)
    assert [text.get_text() for text in two.get_legend().get_texts()] == ["rope", "swing"]
    assert not figures[0].legends  # in which the first curve of each panel would have the same colour


def test_images_beside_curves_are_as_large_as_they_can_be():
    fields = spec(**{f"u{number}": (24, 24) for number in range(4)}, power=(4,))
    sample = {f.name: np.ones(f.shape, f.dtype) for f in fields.values()}
    picture = draw([default_scene(fields).snapshot(sample)], (640, 480))
    coloured = np.ptp(picture.astype(int), axis=2) > 60  # of the images: texts and axes are grey
    assert coloured.sum() > 4 * 120 * 120  # 95 pixels wide where panels are two in a row


@pytest.mark.parametrize(("shape", "grid"), [((3, 20, 30), (20, 30)), ((20, 30, 2), (20, 30))])
def test_channels_are_images_of_their_own(shape, grid):
    fields = SampleSpec([Field("u", shape, "f4", "target", dimensions=2)])
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    objects = shown(fields, u=values)
    assert [item["values"].shape for item in objects.values()] == [grid] * min(shape[0], shape[-1])
    first = values[1] if shape[0] == 3 else values[..., 1]
    np.testing.assert_array_equal(objects["u[1]"]["values"], first)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (3, 20, 30), (4, 20, 30), (20, 30, 4), (4, 20, 30, 3)])
def test_bytes_on_a_grid_are_a_picture_of_several_the_last_one(shape):
    fields = SampleSpec([Field("camera", shape, "u1", "input")])
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    found = shown(fields, camera=values)["camera"]["values"]
    assert (found.shape, found.dtype) == ((20, 30, 3), np.uint8)
    last = {2: values, 3: values[..., -1] if shape[0] == 20 else values[-1], 4: values[-1, ..., -1]}[len(shape)]
    np.testing.assert_array_equal(found[..., 2], last)


def test_at_most_eight_fields_are_drawn_targets_before_others():
    fields = SampleSpec(
        [Field(f"a{i}", (50,), "f4", "additional") for i in range(9)] + [Field("u", (50,), "f4", "target")]
    )
    assert list(shown(fields)) == ["u", *(f"a{i}" for i in range(7))]


def test_a_mesh_is_moved_by_its_displacement_in_the_colours_of_each_field():
    fields = spec(forces=(8, 3), displacement=(8, 3), stress=(1,), temperature=(8,), u=(40,))
    step = {"displacement": np.full((8, 3), 0.5), "prediction/displacement": np.full((8, 3), 0.25)}
    objects = shown(fields, MESH, **step)
    assert {name: item["kind"] for name, item in objects.items() if item["kind"] == "mesh"}.keys() == {
        "forces",
        "displacement",
        "stress",
        "temperature",
        "prediction/displacement",
    }
    np.testing.assert_array_equal(objects["forces"]["points"], NODES + 0.5)
    np.testing.assert_allclose(objects["forces"]["scalars"], np.sqrt(3))
    np.testing.assert_array_equal(objects["prediction/displacement"]["points"], NODES + 0.25)
    assert objects["prediction/displacement"]["ghost"]
    assert objects["stress"]["face_scalars"].shape == (6,)
    assert objects["u"]["kind"] == "curve"


@pytest.mark.parametrize(
    "constants",
    [
        {"mesh/points": NODES, "mesh/cells/hexahedron": np.arange(8)[None]},
        {"nodes": NODES, "cells/quad": np.array([[0, 1, 2, 3]]), "cells/triangle": np.array([[4, 5, 6]])},
    ],
)
def test_meshes_of_imports_and_of_several_kinds_are_known(constants):
    objects = shown(spec(stress=(8,)), constants)
    assert len(objects) == len(constants) - 1
    assert {item["kind"] for item in objects.values()} == {"mesh"}


def test_points_that_move_are_positions():
    objects = shown(spec(points=(30, 3)))
    assert objects["points"]["kind"] == "points"
    meshed = shown(spec(points=(8, 3), heat=(8,)), MESH, points=NODES * 2)
    np.testing.assert_array_equal(meshed["heat"]["points"], NODES * 2)


def test_what_is_predicted_is_a_ghost_of_a_curve_and_an_image_next_to_it():
    fields = spec(u=(40,), v=(12, 12))
    plain = shown(fields)
    assert list(plain) == ["u", "v"]
    objects = shown(fields, **{"prediction/u": np.zeros(40), "prediction/v": np.zeros((12, 12))})
    assert objects["prediction/u"]["ghost"]
    assert objects["prediction/u"]["panel"] == objects["u"]["panel"]
    assert objects["prediction/v"]["limits"] == objects["v"]["limits"] == [0, 1]
    recorded = SampleSpec([*fields.values(), Field("prediction/u", (40,), "f4", "additional")])
    assert list(default_scene(recorded).handles) == list(default_scene(fields).handles)


def test_a_constant_x_gives_the_abscissae():
    objects = shown(spec(u=(5,), v=(26,)), {"x": np.linspace(0, 1, 5)})
    np.testing.assert_array_equal(objects["u"]["x"], np.linspace(0, 1, 5))
    np.testing.assert_array_equal(objects["v"]["x"], np.arange(26))
    assert objects["u"]["line_width"] > objects["v"]["line_width"] == 0  # of numbers that may be no grid


def test_the_default_scene_is_drawn():
    fields = spec(u=(40,), v=(12, 12), number=())
    sample = {f.name: np.ones(f.shape, f.dtype) for f in fields.values()}
    frame = draw([default_scene(fields).snapshot(sample)], (400, 480))
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    ("mask", "dtype", "there"), [((), "i4", 2), ((4,), "?", [True, True, False, False]), ((4,), "i4", [3, 1, 0, 0])]
)
def test_padded_points_are_left_out(mask, dtype, there):
    fields = SampleSpec(
        [Field("points", (4, 3), "f4", "target", mask="there"), Field("there", mask, dtype, "additional")]
    )
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = shown(fields, points=points, there=np.array(there))["points"]["points"]
    np.testing.assert_array_equal(found, points[:2])


def test_padded_nodes_of_a_mesh_are_left_out_with_their_cells():
    constants = {"nodes": NODES[:6], "cells": np.array([[0, 1, 2], [1, 2, 3], [3, 4, 5], [0, 2, 5]])}
    fields = SampleSpec(
        [
            Field("displacement", (6, 3), "f4", "target", mask="there"),
            Field("there", (6,), "?", "additional"),
            Field("heat", (6,), "f4", "target"),
            Field("stress", (4,), "f4", "target"),
        ]
    )
    there = np.array([True, True, True, False, True, True])
    heat = np.arange(6, dtype=np.float32)
    more = {"stress": heat[:4], "displacement": np.zeros((6, 3), np.float32)}
    objects = shown(fields, constants, there=there, heat=heat, **more)
    for name in ("displacement", "heat", "stress"):
        np.testing.assert_array_equal(objects[name]["points"], NODES[:6][there])
        assert objects[name]["faces"].tolist() == [[0, 1, 2], [0, 2, 4]]
    np.testing.assert_array_equal(objects["heat"]["scalars"], heat[there])
    assert objects["stress"]["face_scalars"].tolist() == [0.0, 3.0]


def test_the_slice_of_a_grid_in_space_is_said():
    objects = shown(spec(u=(8, 9, 10)))
    assert objects["u"]["label"] == "u, slice 4 of 8"
    assert shown(SampleSpec([Field("v", (2, 4, 5, 6), "f4", "target", dimensions=3)]))["v[1]"]["label"] == (
        "v[1], slice 2 of 4"
    )
    assert shown(spec(u=(9, 10)))["u"]["label"] == "u"


def test_complex_values_are_said_not_to_be_drawn():
    found = shown(SampleSpec([Field("psi", (20,), "c16", "target")]))
    assert found["psi"]["text"] == "psi is not drawn: its values are complex"


def test_numbers_of_a_grid_are_a_curve_and_others_dots():
    fields = SampleSpec([Field("grid", (30,), "f4", "target", dimensions=1), Field("state", (30,), "f4", "target")])
    objects = shown(fields)
    assert (objects["grid"]["xlabel"], objects["grid"]["line_width"]) == ("grid point", 1.0)
    assert (objects["state"]["xlabel"], objects["state"]["line_width"]) == ("index", 0.0)
