from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import psutil
import pytest

from physgym.errors import ConfigError
from physgym.scene.frames import Panel, curves_frame, figure_frame, image_frame, mesh_frame, new_figure

WHITE = 255
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
CUBE_FACES = np.array([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])
ROOM = np.array([[-1.0, -1.0, -1.0], [2.0, 2.0, 2.0]])


def drawn(frame: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that are not background, shape (k, 2)."""
    return np.argwhere((frame != WHITE).any(axis=2))


@pytest.mark.parametrize("size", [(640, 480), (333, 229), (57, 100)])
def test_a_figure_has_exactly_the_pixels_asked_for(size):
    frame = figure_frame(new_figure(size))
    assert frame.shape == (size[1], size[0], 3)
    assert frame.dtype == np.uint8
    assert (frame == WHITE).all()


def test_curves_are_drawn_with_their_ghosts():
    x = np.linspace(0, 1, 20)
    plain = curves_frame(x, {"u": x**2}, xlabel="x [m]", ylabel="u [m]", title="t", ylim=(0, 1))
    ghost = curves_frame(x, {"u": x**2}, ghosts={"v": x}, xlabel="x [m]", ylabel="u [m]", title="t", ylim=(0, 1))
    assert plain.shape == ghost.shape == (480, 640, 3)
    assert len(drawn(plain)) > 1000
    assert (plain != ghost).any()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_panels_fill_the_frame(count):
    field = np.arange(12.0).reshape(3, 4)
    frame = image_frame([Panel(f"panel {i}", field * i) for i in range(count)], size=(400, 300))
    assert frame.shape == (300, 400, 3)
    assert np.ptp(drawn(frame)[:, 1]) > 250


def test_limits_make_colours_comparable():
    field = np.ones((4, 4))
    weak, strong = (image_frame([Panel("", field * scale, (-10.0, 10.0))]) for scale in (1.0, 9.0))
    assert (weak != strong).any()
    same = [image_frame([Panel("", field * scale, (-scale, scale))])[150, 320] for scale in (1.0, 9.0)]
    np.testing.assert_array_equal(*same)


def test_no_panel_is_an_error():
    with pytest.raises(ConfigError, match="at least one panel"):
        image_frame([])


def test_mesh_is_rendered_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    frame = mesh_frame(CUBE, CUBE_FACES)
    assert frame.shape == (480, 640, 3)
    assert frame.dtype == np.uint8
    rows, columns = drawn(frame).T
    assert np.ptp(rows) > 200
    assert np.ptp(columns) > 200
    assert abs((columns.min() + columns.max()) / 2 - 320) < 10


def test_ghost_scalars_and_title_show():
    kwargs = {"bounds": ROOM, "size": (320, 240)}
    plain = mesh_frame(CUBE, CUBE_FACES, **kwargs)
    for more in ({"ghost": CUBE + 0.5}, {"scalars": CUBE[:, 0], "unit": "m"}, {"title": "cube"}):
        assert (mesh_frame(CUBE, CUBE_FACES, **kwargs, **more) != plain).any()


def test_the_camera_follows_from_the_bounds_alone():
    first = drawn(mesh_frame(CUBE, CUBE_FACES, bounds=ROOM))
    moved = drawn(mesh_frame(CUBE + np.array([0, 0, 0.5]), CUBE_FACES, bounds=ROOM))
    assert moved[:, 0].min() < first[:, 0].min()  # higher up in the picture
    np.testing.assert_allclose(moved[:, 1].mean(), first[:, 1].mean(), atol=1)  # and nowhere else
    shrunk = drawn(mesh_frame(CUBE / 2, CUBE_FACES, bounds=ROOM))
    assert np.ptp(shrunk[:, 1]) == pytest.approx(np.ptp(first[:, 1]) / 2, abs=2)


def test_everything_within_the_bounds_is_seen():
    long = CUBE * [100.0, 2.0, 3.0]
    for size in ((640, 480), (300, 600)):
        rows, columns = drawn(mesh_frame(long, CUBE_FACES, size=size)).T
        assert columns.min() > 10
        assert columns.max() < size[0] - 10
        assert rows.min() > 10
        assert rows.max() < size[1] - 10


def test_a_point_of_a_mesh_is_no_reason_to_fail():
    assert mesh_frame(np.zeros((4, 3)), np.array([[0, 1, 2, 3]]), size=(64, 64)).shape == (64, 64, 3)


def test_equal_meshes_give_equal_pixels():
    frames = [mesh_frame(CUBE, CUBE_FACES, scalars=CUBE[:, 1], ghost=CUBE * 1.1, size=(160, 120)) for _ in range(2)]
    np.testing.assert_array_equal(*frames)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"points": CUBE[:, :2]}, "points has shape"),
        ({"faces": CUBE_FACES.ravel()}, "faces has shape"),
        ({"scalars": np.zeros(3)}, "scalars has shape"),
        ({"ghost": CUBE[:4]}, "ghost has shape"),
        ({"bounds": np.zeros(6)}, "bounds has shape"),
        ({"size": (0, 10)}, "positive width"),
    ],
)
def test_bad_arguments_are_named(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        mesh_frame(**{"points": CUBE, "faces": CUBE_FACES, **kwargs})


@pytest.mark.slow
def test_frames_leave_no_window_behind_and_disturb_no_other():
    import vedo

    mesh_frame(CUBE, CUBE_FACES, scalars=CUBE[:, 0], size=(64, 64))  # opens fonts, once for all
    mine = vedo.Plotter(offscreen=True, size=(64, 64))
    gc.collect()  # what other tests have left
    files = psutil.Process().num_fds()
    try:
        for _ in range(5):
            mesh_frame(CUBE, CUBE_FACES, scalars=CUBE[:, 0], size=(64, 64))
        gc.collect()
        assert [o for o in gc.get_objects() if type(o) is vedo.Plotter] == [mine]
        assert vedo.current_plotter() is mine
        assert psutil.Process().num_fds() <= files  # what other tests have left may be closed meanwhile
    finally:
        mine.close()


def test_importing_frames_imports_no_viewer():
    code = (
        "import sys, physgym.scene.frames; print([m for m in ('matplotlib', 'vedo', 'vtkmodules') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_nothing_is_printed_about_a_missing_display(tmp_path):
    code = (
        "import numpy as np; from physgym.scene.frames import mesh_frame;"
        "mesh_frame(np.eye(4, 3), np.array([[0, 1, 2, 3]]), size=(64, 64))"
    )
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert "X server" not in out.stderr
    assert "WARN" not in out.stderr
