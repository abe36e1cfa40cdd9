"""Fields of a few numbers: curves over the time of their episode."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.sample import Field, SampleSpec
from physgym.scene import Scene, field, stack
from physgym.scene.declared import METADATA, scene_text
from physgym.scene.default import default_scene
from physgym.scene.films import png
from physgym.scene.over_time import in_units, is_small, without_earlier
from physgym.scene.plots import panels_of
from physgym.scene.sample_scenes import SampleScenes
from physgym.scene.sample_view import SampleView
from physgym.scene.timeline import timeline_of

UNITS = "m, m, m/s"
STATE = Field("state", (3,), np.dtype("f4"), "input", UNITS)
NEXT = Field("next_state", (3,), np.dtype("f4"), "target", UNITS)
FORCE = Field("force", (1,), np.dtype("f4"), "input", "N")
PREDICTED = Field("prediction/next_state", (3,), np.dtype("f4"), "additional", UNITS)
STEPS = 5


def states(episode: int) -> np.ndarray:
    """Three numbers at each step; of other episodes other ones."""
    return (np.arange(STEPS)[:, None] + 10.0 * np.arange(3) + 100 * episode).astype("f4")


def stored(path, *more: Field, steps: int = STEPS, scene: Scene | None = None) -> SampleDataset:
    with SampleWriter(path, SampleSpec([STATE, NEXT, FORCE, *more])) as writer:
        for episode in range(2):
            now = states(episode)[:steps]
            rows = {"state": now - 1, "next_state": now, "force": np.zeros((steps, 1), "f4")}
            rows |= {one.name: now + 0.5 for one in more}
            where = {"episode": np.full(steps, episode), "step": np.arange(steps), "seed": np.zeros(steps, "u8")}
            writer.append(rows, **where)
    if scene is not None:
        surgery.describe(path, {METADATA: scene_text(scene.declaration())})
    return SampleDataset(path)


def pendulum() -> Scene:
    scene = Scene()
    scene.title("pendulum")
    place = field("state")
    scene.lines("rod", stack(stack(0.0, place[0]), stack(0.0, place[1])))
    scene.text("next_state", "{:.1f} m", values=place[0])  # a name that the default scene has too
    return scene


def test_each_number_is_a_curve_over_the_episode_and_a_point_now(tmp_path):
    dataset = stored(tmp_path / "data")
    scenes, timeline = SampleScenes(dataset), timeline_of(dataset)
    for position in (1, STEPS + 2):
        (shown,) = scenes.snapshots(timeline, position)
        episode, step = divmod(position, STEPS)
        for number, unit in enumerate(("m", "m", "m/s")):
            curve, now = (shown["objects"][f"next_state[{number}]{end}"] for end in ("", " now"))
            np.testing.assert_array_equal(curve["values"], states(episode)[:, number])
            np.testing.assert_array_equal(curve["x"], np.arange(STEPS) + 1)
            assert (now["x"].tolist(), now["values"].tolist()) == ([step + 1], [states(episode)[step, number]])
            assert (curve["unit"], curve["xlabel"], curve["colour"]) == (unit, "step", now["colour"])
            assert curve["panel"] == now["panel"] == f"next_state[{number}] over time"
        assert shown["objects"]["force"]["text"] == "force = 0 N"
        assert not {"state", "state[0]", "next_state"} & {*shown["objects"]}  # the same a step before, and a text


def test_predictions_are_drawn_over_them_by_default_and_beside_them_on_demand(tmp_path):
    dataset = stored(tmp_path / "data", PREDICTED)
    scenes, timeline = SampleScenes(dataset), timeline_of(dataset)
    assert scenes.sides == ("solver",)
    (shown,) = scenes.snapshots(timeline, 2)
    ghost = shown["objects"]["prediction/next_state[1]"]
    assert ghost["ghost"]
    np.testing.assert_array_equal(ghost["values"], states(0)[:, 1] + 0.5)
    assert ghost["panel"] == shown["objects"]["next_state[1]"]["panel"]
    sides = SampleScenes(dataset, ["solver", "network", "error"]).snapshots(timeline, 2)
    for side, values in zip(sides, (states(0), states(0) + 0.5, np.full((STEPS, 3), 0.5)), strict=True):
        np.testing.assert_allclose(side["objects"]["next_state[2]"]["values"], values[:, 2])


def test_a_scene_of_the_simulation_stays_and_predictions_that_it_lacks_are_drawn_besides(tmp_path):
    dataset = stored(tmp_path / "data", PREDICTED, scene=pendulum())
    (shown,) = SampleScenes(dataset).snapshots(timeline_of(dataset), 2)
    assert shown["title"] == "pendulum"
    np.testing.assert_array_equal(shown["objects"]["rod"]["points"][1, :2], states(0)[2, :2] - 1)
    assert shown["objects"]["next_state"]["text"] == "1.0 m"  # its own text
    assert {"next_state[0]", "prediction/next_state[0]"} <= {*shown["objects"]}
    without = stored(tmp_path / "without", scene=pendulum())
    (shown,) = SampleScenes(without).snapshots(timeline_of(without), 2)
    assert [*shown["objects"]] == ["rod", "next_state"]


def test_predictions_of_fields_that_are_not_there_are_no_fault(tmp_path):
    stored(tmp_path / "data", PREDICTED, scene=pendulum())
    part = SampleDataset(tmp_path / "data", fields=["state", "prediction/next_state"])
    solver, *_ = SampleScenes(part).snapshots(timeline_of(part), 2)
    assert "rod" in solver["objects"]


def test_a_title_of_the_simulation_stands_before_the_sample(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("physgym.scene.sample_view.draw", lambda *_, **said: drawn.append(said["title"]))
    SampleView(stored(tmp_path / "data", scene=pendulum()), sample=3).picture()
    SampleView(stored(tmp_path / "plain"), sample=3).picture()
    assert drawn == ["pendulum, episode 0, step 3", "episode 0, step 3"]


def test_an_episode_of_one_step_is_written_in_numbers(tmp_path):
    dataset = stored(tmp_path / "data", PREDICTED, steps=1)
    (shown,) = SampleScenes(dataset).snapshots(timeline_of(dataset), 0)
    assert shown["objects"]["next_state"]["text"] == "next_state = (0 m, 10 m, 20 m/s)"
    assert shown["objects"]["prediction/next_state"]["text"].endswith("(0.5 m, 10.5 m, 20.5 m/s), predicted")
    assert not any(one["kind"] == "curve" for one in shown["objects"].values())


def test_a_film_of_one_sample_still_shows_its_whole_episode(tmp_path):
    view = SampleView(stored(tmp_path / "data"), sample=2)
    (shown,) = view.snapshots([(view.timeline, 2)])
    assert len(shown["objects"]["next_state[0]"]["x"]) == STEPS


def test_many_numbers_share_a_panel_of_each_unit_and_few_have_their_own():
    many = SampleSpec([Field("q", (6,), "f4", "target", "rad, rad, rad, m, m, m"), Field("r", (4,), "f4", "target")])
    series = {"//times": np.arange(3.0), "//now": np.ones(1)}
    for name, one in many.items():
        series |= {name: np.zeros(one.shape), f"{name}//steps": np.zeros((3, *one.shape))}
    texts, *panels = panels_of(default_scene(many).snapshot(series))
    assert not texts.plotted
    assert [panel.name for panel in panels] == [
        *("q over time, rad", "q over time, m", "r over time, "),
    ]
    assert len({item["colour"] for item in panels[0].items if item["kind"] == "curve"}) == 3


@pytest.mark.parametrize(
    ("shape", "role", "more", "small"),
    [
        ((6,), "input", {}, True),
        ((12,), "target", {}, True),
        ((13,), "target", {}, False),
        ((6,), "target", {"dimensions": 1}, False),
        ((), "target", {}, True),
        ((1,), "input", {}, False),
        ((2, 3), "target", {}, False),
        ((0,), "target", {}, False),
    ],
)
def test_a_few_numbers_that_are_no_grid_are_small(shape, role, more, small):
    assert is_small(Field("x", shape, "f4", role, **more), {}) is small
    assert not is_small(Field("u", (5,), "f4", "target"), {"x": np.zeros(5)})
    assert not is_small(Field("text", (2,), "U3", "target"), {})


def test_what_feeds_the_next_step_is_drawn_once():
    fed = Field("angle", (2,), "f4", "target", feeds="before")
    fields = [Field("before", (2,), "f4", "input"), fed, STATE, NEXT, Field("grid", (64,), "f4", "input")]
    fields += [Field("next_grid", (64,), "f4", "target"), Field("x", (2,), "f4", "input", "m")]
    fields += [Field("next_x", (2,), "f4", "target", "s")]  # something else
    assert [one.name for one in without_earlier(fields)] == ["angle", "next_state", "grid", "next_grid", "x", "next_x"]


def test_units_of_numbers():
    assert in_units("m, m/s", 2) == ["m", "m/s"]
    assert in_units("m", 2) == ["m", "m"]
    assert in_units("1, rad", 2) == ["", "rad"]
    assert in_units("", 1) == [""]


@pytest.mark.slow
def test_a_picture_of_curves_has_names_ticks_of_whole_steps_and_a_legend_where_nothing_is(tmp_path, monkeypatch):
    figures = []

    def blank(figure):
        figures.append(figure)
        return np.zeros((*map(int, figure.bbox.size[::-1]), 3), np.uint8)

    monkeypatch.setattr("physgym.scene.frames.figure_frame", blank)
    view = SampleView(stored(tmp_path / "data", PREDICTED), sample=2, size=(640, 480))
    assert png(view.picture())
    _, figure = figures  # the title, and the scene
    figure.canvas.draw()
    _, *panels = figure.axes
    assert [axes.get_title() for axes in panels] == ["next_state[0]", "next_state[1]", "next_state[2]"]
    assert all(axes.get_legend() is None for axes in panels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["solver", "predicted"]
    assert figure.legends[0].get_window_extent().y1 <= min(axes.get_window_extent().y0 for axes in panels)
    assert all(tick == round(tick) for axes in panels for tick in axes.get_xticks())
    assert [axes.get_ylabel() for axes in panels] == ["m", "m", "m/s"]
