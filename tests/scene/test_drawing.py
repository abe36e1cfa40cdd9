"""Pictures of scenes: objects are where they should be, in the colours of their values, each scene in its part."""

import matplotlib
import numpy as np
import pytest

from physgym.errors import ConfigError, SceneError
from physgym.scene import Scene, draw
from physgym.scene.space import SceneView

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
QUAD = [[0, 1, 2, 3]]
RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"


def places(frame, colour, tolerance=40):
    """Rows and columns of the pixels of a colour, shape (k, 2)."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere((np.abs(frame.astype(int) - wanted) <= tolerance).all(axis=2))


def square(colour, shift=0.0, **style):
    scene = Scene()
    scene.mesh("square", SQUARE + shift, QUAD, colour=colour, line_width=0, **style)
    scene.camera(bounds=[[-1, -1], [2, 2]])
    return scene.snapshot()


def test_scenes_stand_side_by_side():
    frame = draw([square(RED), square(GREEN), square(BLUE)], (400, 300))
    assert frame.shape == (300, 400, 3)
    assert frame.dtype == np.uint8
    for colour, (row, column) in zip((RED, GREEN, BLUE), [(75, 100), (75, 300), (225, 100)], strict=True):
        found = places(frame, colour)
        assert len(found) > 500
        np.testing.assert_allclose(found.mean(axis=0), [row, column], atol=12)
    assert (frame[160:, 210:] == 255).all()  # the fourth part is empty


def test_columns_titles_and_a_line_above_all():
    plain = draw([square(RED), square(BLUE)], (600, 200), columns=2)
    titled = draw(
        [square(RED), square(BLUE)], (600, 200), columns=2, titles=["solver\nepisode 3", "network"], title="all"
    )
    assert places(plain, RED)[:, 1].max() < 300 < places(plain, BLUE)[:, 1].min()
    assert (plain[:20] == 255).all()
    assert (titled[:24, 280:320] != 255).any()
    assert places(titled, RED)[:, 0].min() > places(plain, RED)[:, 0].min()  # there is less room


def test_an_object_in_the_plane_moves_with_its_positions():
    here, there = (places(draw([square(RED, shift)], (300, 300)), RED).mean(axis=0) for shift in (0.0, [0.5, 0.5]))
    assert here[0] - there[0] == pytest.approx(there[1] - here[1], abs=2)  # to the right and upwards
    assert there[1] - here[1] == pytest.approx(300 * 0.5 / 3.3, rel=0.15)


def test_colours_follow_scalars():
    scene = Scene()
    points = np.concatenate([SQUARE, np.add(SQUARE, [2.0, 0.0])])
    mesh = scene.mesh("m", points, [[0, 1, 2, 3], [4, 5, 6, 7]], limits=(0, 1), line_width=0)
    for values in ([0.0, 1.0], [1.0, 0.25]):
        mesh.update(cell_scalars=values)
        frame = draw([scene.snapshot()], (400, 300))
        centres = []
        for value in values:
            rgb = matplotlib.colormaps["viridis"](value)[:3]
            found = places(frame[:, :300], matplotlib.colors.to_hex(rgb), 4)
            assert len(found) > 1000
            centres.append(found[:, 1].mean())
        assert centres[0] < centres[1] - 50
    image = Scene()
    image.image("u", [[0.0, 1.0], [np.nan, 1.0]], limits=(0, 1), colours="gray")
    frame = draw([image.snapshot()], (200, 200))
    assert (frame[50, 60] == 255).all()  # a gap, above the first row
    assert (frame[110, 60] == 0).all()


def test_every_kind_in_a_plane_is_drawn_at_its_place():
    for number, add in enumerate(
        (
            lambda s, at: s.points("x", at, colour=RED, point_size=20),
            lambda s, at: s.markers("x", at, colour=RED, symbol="s", point_size=20),
            lambda s, at: s.glyphs("x", at, colour=RED, shape="cube", scale=0.5),
            lambda s, at: s.arrows("x", np.subtract(at, [[0, 0.5]]), [[0, 1]], scale=1, colour=RED, line_width=4),
            lambda s, at: s.lines("x", np.add(at, [[-0.5, 0], [0.5, 0]]), colour=RED, line_width=8),
            lambda s, at: s.text("x", "M", point=at[0], colour=RED),
        )
    ):
        scene = Scene()
        add(scene, [[1.0, 2.0]])
        scene.markers("corner", [[0, 0]], point_size=1)
        scene.camera(bounds=[[0, 0], [4, 4]])
        found = places(draw([scene.snapshot()], (300, 300)), RED, 60)
        assert len(found) > 5, number
        np.testing.assert_allclose(found.mean(axis=0), [150, 85], atol=25, err_msg=str(number))


def test_a_colour_map_that_there_is_not_is_an_error():
    scene = Scene()
    with pytest.raises(SceneError, match=r"colour map of matplotlib.*not 'virids'"):
        scene.image("u", np.eye(3), colours="virids")
    scene.image("u", np.eye(3))
    later = scene.snapshot()  # of a version that knows more of them
    later["objects"]["u"]["colours"] = "virids"
    with pytest.raises(ConfigError, match=r"colour map of matplotlib.*not 'virids'"):
        draw([later])


def test_pictures_keep_their_colours_and_stand_upright():
    scene = Scene()
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[:5], pixels[5:] = (255, 0, 0), (0, 0, 255)
    scene.image("camera", pixels)
    shown = scene.snapshot()
    assert "limits" not in shown["objects"]["camera"]
    frame = draw([shown], (200, 200))
    assert places(frame, RED)[:, 0].max() < places(frame, BLUE)[:, 0].min()


def test_curves_and_their_ghosts_are_in_their_colours():
    scene = Scene()
    scene.curve("u", [0.0, 1.0, 0.0], colour=BLUE, limits=(0, 1), unit="m")
    frame = draw([scene.snapshot()], (300, 200))
    middle = places(frame, BLUE)
    middle = middle[middle[:, 0] < 150]
    top = middle[np.argmin(middle[:, 0])]
    assert abs(top[1] - 165) < 25  # the largest value stands in the middle
    scene.curve("v", [1.0, 0.0, 1.0], ghost=True)
    assert len(places(draw([scene.snapshot()], (300, 200)), "#d1495b")) > 30


def test_little_pictures_have_no_texts_and_empty_ones_are_white():
    empty = Scene().snapshot()
    assert (draw([empty], (200, 200)) == 255).all()
    text = Scene()
    text.text("t", "rejected: the solver did not converge")
    text.title("a title")
    assert (draw([text.snapshot()], (300, 200))[:60] != 255).any()
    scene = Scene()
    scene.curve("u", np.sin(np.arange(30)))
    scene.image("v", np.ones((4, 4)))
    for size in ((40, 30), (1, 1), (33, 90)):
        assert draw([scene.snapshot(), square(RED)], (2 * size[0], size[1])).shape == (size[1], 2 * size[0], 3)


@pytest.mark.parametrize(
    ("snapshots", "options", "text"),
    [
        ([], {}, "needs a snapshot"),
        ([Scene().snapshot()], {"titles": ["a", "b"]}, "one for each title"),
        ([Scene().snapshot()], {"size": (0, 1)}, "positive width"),
        ([Scene().snapshot()] * 9, {"size": (2, 2)}, "no room for 9 scenes"),
    ],
)
def test_wrong_arguments_are_named(snapshots, options, text):
    with pytest.raises(ConfigError, match=text):
        draw(snapshots, **options)


@pytest.mark.slow
def test_objects_in_space_are_where_the_camera_sees_them():
    at = np.array([[0.8, 0.2, 0.9]])
    for number, add in enumerate(
        (
            lambda s: s.points("x", at, colour=RED, point_size=20),
            lambda s: s.markers("x", at, colour=RED, symbol="^", point_size=20),
            lambda s: s.glyphs("x", at, colour=RED, scale=0.2),
            lambda s: s.glyphs("x", at, [[1, 1, 0]], colour=RED, shape="cylinder", scale=0.2),
            lambda s: s.arrows("x", at - [[0, 0, 0.3]], [[0, 0, 0.6]], scale=1, colour=RED),
            lambda s: s.lines("x", np.add(at, [[-0.2, 0, 0], [0.2, 0, 0]]), colour=RED, line_width=6),
            lambda s: s.text("x", "M", point=at[0], colour=RED),
            lambda s: s.mesh("x", at + 0.1 * np.eye(3) - 0.033, [[0, 1, 2]], colour=RED, line_width=0),
        )
    ):
        scene = Scene()
        add(scene)
        scene.camera(bounds=[[0, 0, 0], [1, 1, 1]])
        scene.markers("corner", [[0, 0, 0]], point_size=0)
        shown = scene.snapshot()
        frame = draw([shown], (320, 240))
        red = frame[..., 0].astype(int) - frame[..., 1:].max(axis=2) > 60
        assert red.sum() > 5, number
        row, column = np.argwhere(red).mean(axis=0)
        x, y = SceneView.of(shown["camera"], (320, 240)).pixels(at, (320, 240))[0]
        assert (column, 240 - row) == pytest.approx((x, y), abs=9), number


@pytest.mark.slow
def test_scenes_in_space_have_sub_windows_colours_and_ghosts():
    cube = np.array([[x, y, z] for z in (0, 1) for x, y in SQUARE])
    scene = Scene()
    cells = np.arange(8)[None]
    mesh = scene.mesh("cube", cube, cells, scalars=np.zeros(8), limits=(0, 1), colours="coolwarm", line_width=0)
    blue = scene.snapshot()
    mesh.update(scalars=np.ones(8))
    frame = draw([blue, scene.snapshot()], (600, 200), columns=2).astype(int)
    assert (frame[100, 150, 2] - frame[100, 150, 0]) > 30
    assert (frame[100, 450, 0] - frame[100, 450, 2]) > 30
    mesh.update(scalars=np.full(8, np.nan))
    assert (draw([scene.snapshot()], (80, 60)) == 255).all()  # a gap
    mesh.update(scalars=np.ones(8))
    scene.mesh("ghost", np.add(cube, [0.0, 0.0, 1.0]), cells, ghost=True)
    ghost = draw([scene.snapshot()], (320, 240)).astype(int)
    assert ghost[0:120].min(axis=2).min() < 200  # above the cube
    assert (draw([blue, blue], (320, 120)) == draw([blue, blue], (320, 120))).all()


def test_texts_are_no_formulas():
    scene = Scene()
    scene.title(r"$\frac$ and ${$")
    scene.curve("cost", [1.0, 2.0], label=r"$\bar$", unit=r"$^$", xlabel="$_$")
    scene.text("price", "5 $ to 6 $ {")
    scene.image(r"$\x$", [[1.0, 2.0]], unit="${$")
    assert (draw([scene.snapshot()], (400, 300), titles=[r"$\over$"], title="${$") != 255).any()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of matplotlib, from what it does not show
def test_a_run_that_diverges_is_drawn_as_long_as_its_values_are_numbers():
    scene = Scene()
    curve = scene.curve("u", [1.0, 2.0])
    image = scene.image("field", [[1.0, 2.0]])
    scene.snapshot()
    curve.update(values=[1e308, -1e308])
    image.update(values=[[1e308, -1e308]])
    snapshot = scene.snapshot()
    assert snapshot["objects"]["field"]["limits"] == [1.0, 2.0], "what was shown before keeps its colours"
    assert (draw([snapshot], (300, 200)) != 255).any()
