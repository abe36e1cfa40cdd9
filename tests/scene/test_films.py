"""Films and pictures in files: every frame at its time, no half-written file, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physgym.errors import ConfigError
from physgym.files import temporary_name
from physgym.scene.films import Film, check_output, save_film, save_frames, save_picture

COLOURS = np.array([[255, 0, 0], [0, 160, 0], [0, 0, 255]], np.uint8)


def picture(number: int) -> np.ndarray:
    """A square of a colour of its own on white."""
    found = np.full((33, 47, 3), 255, np.uint8)
    found[8:24, 8:24] = COLOURS[number]
    return found


def pixels(file) -> np.ndarray:
    with Image.open(file) as found:
        return np.asarray(found.convert("RGB"))


FILM = Film(picture, [1, 3, 2], 10.0)


def test_a_gif_has_each_picture_for_its_time(tmp_path):
    save_film(tmp_path / "film.gif", FILM)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (3, (47, 33), 0)
        found = []
        for number in range(3):
            film.seek(number)
            pixels = np.asarray(film.convert("RGB"))
            np.testing.assert_array_equal(pixels, picture(number))
            found.append(film.info["duration"])
    assert found == [100, 300, 200]


@pytest.mark.parametrize("count", [3, 20])
def test_each_picture_of_a_gif_is_drawn_once_and_counted(tmp_path, capsys, count):
    drawn = []

    def noted(number):
        drawn.append(number)
        return picture(number % 3) - np.uint8(number)

    save_film(tmp_path / "film.gif", Film(noted, [1] * count, 10.0), progress=True)
    assert sorted(drawn) == list(range(count))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"draw: {count}/{count} in ")
    save_film(tmp_path / "again.gif", FILM)
    assert capsys.readouterr().err == ""


def test_the_background_of_a_gif_is_exact(tmp_path):
    noise = np.random.default_rng(0).integers(240, 256, (40, 40, 3)).astype(np.uint8)  # other whites

    def speckled(number: int) -> np.ndarray:
        found = np.full((60, 160, 3), 255, np.uint8)
        found[:40, 20 * number : 20 * number + 40] = noise
        return found

    save_film(tmp_path / "film.gif", Film(speckled, [1, 1, 1], 10.0))
    assert (pixels(tmp_path / "film.gif")[:, 100:] == 255).all()


def test_times_of_a_gif_do_not_drift(tmp_path):
    save_film(tmp_path / "film.gif", Film(lambda number: picture(number % 3), [1] * 30, 30.0))
    with Image.open(tmp_path / "film.gif") as film:
        times = []
        for number in range(film.n_frames):
            film.seek(number)
            times.append(film.info["duration"])
    assert set(times) == {30, 40}
    assert sum(times) == 1000


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_video_has_all_frames(tmp_path, suffix):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    file = tmp_path / f"film{suffix}"
    save_film(file, FILM)
    assert ffmpeg.count_frames_and_secs(str(file)) == (6, pytest.approx(0.6, abs=0.11))
    command = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=110).stdout
    pixels = np.frombuffer(decoded, np.uint8).reshape(-1, 34, 48, 3).astype(int)  # even sides
    assert len(pixels) == 6
    for number, found in zip([0, 1, 1, 1, 2, 2], pixels, strict=True):
        assert np.abs(found[12:20, 12:20] - COLOURS[number]).max() < 60
        assert found[:4, :4].min() > 230
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_each_picture_is_written_once_into_a_folder(tmp_path):
    save_frames(tmp_path / "pictures", FILM, ["a", "b", "c"])
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["a.png", "b.png", "c.png"]
    np.testing.assert_array_equal(pixels(tmp_path / "pictures" / "b.png"), picture(1))
    with pytest.raises(ConfigError, match="there already"):
        save_frames(tmp_path / "pictures", FILM, ["a", "b", "c"])


def test_a_picture_is_replaced_only_where_that_is_wanted(tmp_path):
    save_picture(tmp_path / "one.png", picture(0))
    with pytest.raises(ConfigError, match=r"one\.png is there already"):
        save_picture(tmp_path / "one.png", picture(1))
    np.testing.assert_array_equal(pixels(tmp_path / "one.png"), picture(0))
    save_picture(tmp_path / "one.png", picture(1), overwrite=True)
    np.testing.assert_array_equal(pixels(tmp_path / "one.png"), picture(1))


@pytest.mark.parametrize("name", ["film.gif", "film.mp4", "pictures"])
def test_nothing_is_left_where_a_picture_cannot_be_drawn(tmp_path, name):
    pytest.importorskip("imageio_ffmpeg")

    def fails(number: int) -> np.ndarray:
        if number == 2:
            raise ConfigError("no picture")
        return picture(number)

    film = Film(fails, [1, 1, 1], 10.0)
    with pytest.raises(ConfigError, match="no picture"):
        save_frames(tmp_path / name, film, "abc") if name == "pictures" else save_film(tmp_path / name, film)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path):
    def never(_: int) -> np.ndarray:
        raise AssertionError

    film = Film(never, [1], 10.0)
    for name, why in (
        ("film.avi", r"ends with '\.avi'; write \.mp4 or"),
        ("film", "ends with ''"),
        ("nowhere/film.gif", "no folder"),
    ):
        with pytest.raises(ConfigError, match=why):
            save_film(tmp_path / name, film)
    (tmp_path / "film.gif").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        save_film(tmp_path / "film.gif", film)
    with pytest.raises(ConfigError, match="50 frames a second"):
        save_film(tmp_path / "fast.gif", Film(never, [1], 60.0))
    with pytest.raises(ConfigError, match=r"ends with '\.jpg'"):
        check_output(tmp_path / "one.jpg", [".png"])
    with pytest.raises(ConfigError, match="no folder"):
        save_frames(tmp_path / "no" / "pictures", film, ["a"])


def test_a_film_that_is_too_long_or_empty_is_refused():
    with pytest.raises(ConfigError, match="200000 frames, more than 100000"):
        Film(picture, [200_000], 10.0)
    with pytest.raises(ConfigError, match="at least one picture"):
        Film(picture, [], 10.0)


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install 'physgym\[video\]'"):
        save_film(tmp_path / "film.mp4", FILM)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_one_error(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("physgym.scene.films.png", full)
    with pytest.raises(ConfigError, match=r"cannot write .*No space left"):
        save_picture(tmp_path / "one.png", picture(0))
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_cut_off_is_one_error(tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")

    def cut(path: str) -> tuple[int, float]:
        Path(path).write_bytes(Path(path).read_bytes()[:40])  # as far as the disk took it
        return count(path)

    count = ffmpeg.count_frames_and_secs
    monkeypatch.setattr(ffmpeg, "count_frames_and_secs", cut)
    with pytest.raises(ConfigError, match=r"cannot write .*film\.mp4: ffmpeg .* 0 of 6 frames; is the disk full"):
        save_film(tmp_path / "film.mp4", FILM)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_is_deleted(tmp_path):
    file = tmp_path / "one.png"
    old, new, other = temporary_name(file), temporary_name(file), temporary_name(tmp_path / "two.png")
    foreign = tmp_path / ".one.png-0123456789abcdef.tmp"
    for each in (old, new, other, foreign):
        each.write_bytes(b"half")
    for each in (old, other, foreign):
        os.utime(each, (1.0, 1.0))
    folder = temporary_name(tmp_path / "pictures")
    folder.mkdir()
    os.utime(folder, (1.0, 1.0))
    save_picture(file, picture(0))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (file, new, other, foreign, folder)}
    save_frames(tmp_path / "pictures", Film(picture, [1], 1.0), ["a"])
    assert not folder.exists()
