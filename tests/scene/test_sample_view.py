"""Stored samples as scenes, pictures and films."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import physgym
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field, SampleSpec
from physgym.scene.message import MESSAGE
from physgym.scene.sample_scenes import SampleScenes
from physgym.scene.sample_view import SampleView
from physgym.scene.timeline import timeline_of

ROW = (16, 24)
SPEC = SampleSpec([Field("m", ROW, np.dtype("f4"), "target", "K"), Field("u", (4, 3), np.dtype("f4"), "input", "mm")])
RECORD = SampleSpec(
    [
        *SPEC.values(),
        Field("prediction/m", ROW, np.dtype("f4"), "additional", "K"),
        Field("error/m", (), np.dtype("f4"), "additional"),
    ]
)
BRIGHT, DARK = (253, 231, 37), (68, 1, 84)  # ends of viridis
SIZE = (200, 160)


def store(path, episodes=2, steps=3, spec=SPEC, mode="training", **options) -> SampleDataset:
    """Samples whose image is bright in the column of the step; the prediction is right but for one value."""
    writer = SampleWriter(path, spec, mode=mode, nonfinite="allow", **options)
    for episode in range(episodes):
        m = np.zeros((steps, *ROW), np.float32)
        m[np.arange(steps), :, np.arange(steps) % ROW[1]] = 1
        wrong = m.copy()
        wrong[:, 3, 5] += 2
        u = np.zeros((steps, 4, 3), np.float32)
        columns = {"m": m, "u": u, "prediction/m": wrong, "error/m": np.ones(steps, np.float32)}
        where = {"episode": np.full(steps, episode), "step": np.arange(steps), "seed": np.zeros(steps, "u8")}
        writer.append({name: columns[name] for name in spec}, **where)
    if options.get("rejected"):
        bad = {"m": np.full((1, *ROW), np.nan, np.float32), "u": np.full((1, 4, 3), np.nan, np.float32)}
        where = {"episode": np.array([1]), "step": np.array([steps]), "seed": np.zeros(1, "u8")}
        writer.add_rejected(bad, ["diverged"], **where)
    writer.close()
    return SampleDataset(path, mode=mode)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> SampleDataset:
    return store(tmp_path_factory.mktemp("plain") / "data")


@pytest.fixture
def record(tmp_path) -> SampleDataset:
    return store(tmp_path / "record", spec=RECORD, mode="prediction")


def test_solver_network_and_error_stand_side_by_side(record):
    scenes = SampleScenes(record)
    timeline = timeline_of(record)
    assert scenes.sides == ("solver", "network", "error")
    solver, network, error = (one["objects"] for one in scenes.snapshots(timeline, 4))
    np.testing.assert_array_equal(solver["m"]["values"], record[4]["m"])
    np.testing.assert_array_equal(network["m"]["values"], record[4]["prediction/m"])
    want = np.zeros(ROW)
    want[3, 5] = 2
    np.testing.assert_allclose(error["m"]["values"], want)
    assert solver["m"]["limits"] == network["m"]["limits"]
    assert set(network) == set(error) == {"m"}  # what is not predicted stands with the solver alone
    assert len(solver) > 1
    assert not any(name.startswith(("prediction/", "error/")) for name in solver)


def test_values_that_a_mask_says_are_not_there_are_gaps(tmp_path):
    spec = SampleSpec(
        [
            Field("f", (4, 2), np.dtype("f4"), "target", mask="n"),
            Field("n", (), np.dtype("i4"), "additional"),
            Field("prediction/f", (4, 2), np.dtype("f4"), "additional"),
        ]
    )
    with SampleWriter(tmp_path / "data", spec) as writer:
        values = {"f": np.ones((2, 4, 2), "f4"), "prediction/f": np.full((2, 4, 2), 3, "f4"), "n": np.array([4, 1])}
        writer.append(values, episode=np.array([0, 0]), step=np.array([0, 1]), seed=np.zeros(2, "u8"))
    dataset = SampleDataset(tmp_path / "data")
    timeline, scenes = timeline_of(dataset), SampleScenes(dataset)
    for side, value in zip(scenes.snapshots(timeline, 1), (1, 3, 2), strict=True):
        np.testing.assert_array_equal(side["objects"]["f[0]"]["values"], [value, np.nan, np.nan, np.nan])
    assert all(np.isfinite(one["objects"]["f[1]"]["values"]).all() for one in scenes.snapshots(timeline, 0))


def test_the_solver_alone_has_the_prediction_in_it(record):
    (solver,) = SampleScenes(record, ["solver"]).snapshots(timeline_of(record), 0)
    np.testing.assert_array_equal(solver["objects"]["prediction/m"]["values"], record[0]["prediction/m"])


def test_sides_that_there_are_not_are_refused(plain, record):
    assert SampleScenes(plain).sides == ("solver",)
    assert SampleScenes(record, ["error", "solver"]).sides == ("solver", "error")
    with pytest.raises(ConfigError, match="no predictions; record some"):
        SampleScenes(plain, ["network"])
    with pytest.raises(ConfigError, match="side must be one of"):
        SampleScenes(record, ["left"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="no side"):
        SampleScenes(record, [])


def test_a_prediction_that_is_no_number_does_not_stop_the_player(tmp_path, caplog):
    declared = physgym.scene.Scene()
    declared.points("p", physgym.scene.field("u"))
    fields = [SPEC["u"], Field("prediction/u", (4, 3), np.dtype("f4"), "additional", "mm")]
    writer = SampleWriter(tmp_path / "data", SampleSpec(fields), nonfinite="allow")
    u = np.ones((1, 4, 3), np.float32)
    writer.append({"u": u, "prediction/u": u * np.nan}, episode=[0], step=[0], seed=np.zeros(1, "u8"))
    writer.close()
    dataset = SampleDataset(tmp_path / "data")
    scenes = SampleScenes(dataset)
    scenes._scene = declared  # positions, which must be finite
    solver, network, error = (one["objects"] for one in scenes.snapshots(timeline_of(dataset), 0))
    assert set(solver) == {"p"}
    assert set(network) == set(error) == {MESSAGE}
    assert "finite" in network[MESSAGE]["text"]
    scenes.snapshots(timeline_of(dataset), 0)
    assert len([one for one in caplog.records if "finite" in one.message]) == 1


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture has a colour, shape (n, 2): rows and columns."""
    return np.argwhere((np.abs(picture.astype(int) - colour) < 12).all(-1))


def test_a_picture_shows_the_sample_that_was_asked_for(tmp_path):
    dataset = store(tmp_path / "data", episodes=1, steps=20)
    columns = []
    for sample in (2, 17):
        picture = SampleView(dataset.subset(np.arange(20)), sample=sample, size=(400, 300)).picture()
        assert (picture.shape, picture.dtype) == ((300, 400, 3), np.uint8)
        columns.append(coloured(picture, BRIGHT)[:, 1].mean())
    assert columns[1] - columns[0] > 50  # the bright column is further to the right


def test_a_film_has_a_frame_a_step_and_each_follows_the_time(tmp_path):
    dataset = store(tmp_path / "data", attributes={"time_step": "0.5"})
    film = SampleView(dataset, size=SIZE).film()
    assert (list(film.frames), film.fps) == ([1] * 6, 10.0)
    film = SampleView(dataset, episode=1, step=1, speed=1.0, fps=20.0, size=SIZE).film()  # 2 samples of 0.5 s
    assert (list(film.frames), film.seconds) == ([10, 10], 1.0)
    assert list(SampleView(dataset, samples=4, size=SIZE).film().frames) == [1] * 4
    assert list(SampleView(dataset, sample=2, size=SIZE).film().frames) == [1]
    assert list(SampleView(dataset, sample=2, samples=3, size=SIZE).film().frames) == [1] * 3


def test_several_episodes_are_shown_at_once(tmp_path):
    view = SampleView(store(tmp_path / "data", episodes=5), grid=2, size=(400, 200))
    film = view.film()
    assert len(film.frames) == 9  # episodes 0, 2, 4 to the left, 1 and 3 to the right
    assert [title.split(",")[0] for title in view.titles([*zip(view.lanes(), (3, 3), strict=True)])] == [
        "episode 2",
        "episode 3",
    ]
    with pytest.raises(ConfigError, match="6 episodes at once of 5"):
        SampleView(store(tmp_path / "more", episodes=5), grid=6).film()


def test_a_picture_of_several_episodes_shows_all_of_them(plain):
    pixels = SampleView(plain, grid=2, size=(400, 200)).picture()
    np.testing.assert_array_equal(pixels, SampleView(plain, grid=2, size=(400, 200)).film().picture(0))
    halves = [len(coloured(half, BRIGHT)) for half in (pixels[:, :200], pixels[:, 200:])]
    assert min(halves) > 50


def test_of_long_episodes_as_many_are_in_the_film_as_are_shown_at_once(tmp_path):
    dataset = store(tmp_path / "data", episodes=3, steps=101)
    assert len(SampleView(dataset, grid=2).film().frames) == 101
    assert len(SampleView(dataset).film().frames) == 100


def test_a_film_without_end_is_refused_before_it_is_made(plain):
    with pytest.raises(ConfigError, match="more than 100000; choose fewer episodes, a higher speed"):
        SampleView(plain, speed=1e-12).film()


def test_arguments_that_name_nothing_are_refused(plain):
    with pytest.raises(ConfigError, match="episode names none"):
        SampleView(plain, episode=[])
    with pytest.raises(ConfigError, match="width and height"):
        SampleView(plain, size=(3,)).picture()


def test_rejected_samples_are_shown_with_the_reason(tmp_path):
    dataset = store(tmp_path / "data", rejected=True)
    assert len(SampleView(dataset).timeline) == 6
    view = SampleView(dataset, rejected=True, episode=1, size=SIZE)
    assert len(view.film().frames) == 4
    assert view.titles([(view.timeline, 3)]) == [""]
    assert view.scenes.reason(view.timeline, 3) == "diverged"
    assert view.picture(3).shape == (160, 200, 3)


def test_a_folder_of_pictures_is_in_order(plain, tmp_path):
    view = SampleView(plain, size=(120, 90))
    assert view.save_frames(tmp_path / "pictures") == 6
    names = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert names[0] == "00000-episode-0-step-0.png"
    assert names[-1] == "00005-episode-1-step-2.png"
    with pytest.raises(ConfigError, match="there already"):
        view.save_frames(tmp_path / "pictures")


def test_a_notebook_gets_a_film_or_of_one_sample_a_picture(plain, monkeypatch):
    view = physgym.view(plain, episode=0, size=(120, 90))
    assert view._repr_png_()[:4] == b"\x89PNG"
    monkeypatch.setattr("physgym.scene.sample_view.find_spec", lambda _: None)
    assert view._repr_html_().startswith('<img src="data:image/gif;base64,')
    assert physgym.view(plain, sample=3)._repr_html_() is None


def test_a_notebook_gets_a_video_where_that_can_be_written(plain):
    pytest.importorskip("imageio_ffmpeg")
    shown = physgym.view(plain, size=(120, 90))._repr_html_()
    assert shown.startswith('<video controls loop src="data:video/mp4;base64,')


def test_the_only_mode_is_taken_and_a_path_will_do(tmp_path, record):
    assert physgym.view(tmp_path / "record").sides == ("solver", "network", "error")
    store(tmp_path / "record")
    assert physgym.view(str(tmp_path / "record")).sides == ("solver",)  # training comes first
    assert physgym.view([tmp_path / "record"], mode="prediction").sides == ("solver", "network", "error")
    with pytest.raises(ConfigError, match="the dataset has prediction samples"):
        physgym.view(record, mode="training")
    with pytest.raises(DatasetError, match="no dataset at"):
        physgym.view(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"episode": 9}, "no episode 9"),
        ({"episode": 0, "step": 9}, "no step 9"),
        ({"sample": 99}, "no sample 99; there are 6"),
        ({"step": 1}, "say of which one"),
        ({"sample": 1, "episode": 0}, "leave out episode and step"),
        ({"episode": [0, 1], "step": 0}, "step of one episode"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"grid": 0}, "grid must be at least 1"),
        ({"speed": -1.0}, "speed must be positive"),
        ({"fps": 0.0}, "fps must be positive"),
        ({"rejected": True}, "keeps no rejected samples"),
        ({"live": True, "grid": 2}, "one episode at a time"),
        ({"live": True, "sides": ["network"]}, "leave the others out"),
    ],
)
def test_wrong_options_are_refused(plain, options, why):
    with pytest.raises(ConfigError, match=why):
        SampleView(plain, **options)


@pytest.mark.slow
def test_a_film_has_the_pixels_of_its_pictures(tmp_path):
    view = SampleView(store(tmp_path / "data", episodes=1, steps=20), episode=0, size=(400, 300))
    view.save(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 20
        columns = []
        for number in (2, 17):
            film.seek(number)
            columns.append(coloured(np.asarray(film.convert("RGB")), BRIGHT)[:, 1].mean())
    assert columns[1] - columns[0] > 50
