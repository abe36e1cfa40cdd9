"""`physgym view` without a window: pictures, films, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import physgym
from physgym import cli
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.nn import MLP
from physgym.runner import Runner
from physgym.training import Trainer
from tests.scene.test_sample_view import RECORD, SPEC, store
from tests.support.commands import run_command

SMALL = ("--size", "160x120")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    store(folder / "data", rejected=True)
    store(folder / "record", spec=RECORD, mode="prediction", episodes=1)
    return folder


@pytest.fixture
def folder(stored, tmp_path, monkeypatch):
    """A folder of its own to work in, with two datasets and without a display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    for name in ("data", "record"):
        (tmp_path / name).symlink_to(stored / name)
    return tmp_path


def size(file) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def view(*arguments: str) -> None:
    cli.app(["view", *arguments], standalone_mode=False)


def test_pictures_and_films_are_written_without_a_window(folder, capsys):
    view("data", "--episode", "1", "--gif", "film.gif", "--frames", "pictures", "--png", "one.png", *SMALL)
    said = capsys.readouterr().out
    assert said == "film.gif: 3 pictures, 0.3 s\npictures: 3 pictures\none.png\n"
    with Image.open(folder / "film.gif") as film:
        assert (film.n_frames, film.size) == (3, (160, 120))
    assert len([*(folder / "pictures").iterdir()]) == 3
    assert size(folder / "one.png") == (160, 120)


def test_a_video_is_written(folder, capsys):
    pytest.importorskip("imageio_ffmpeg")
    view("record", "--video", "film.mp4", "--fps", "5", "--side", "network", "--side", "error", "--size", "200x100")
    assert capsys.readouterr().out == "film.mp4: 3 pictures, 0.6 s\n"
    assert (folder / "film.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_dataset_in_a_storage_is_shown(folder):
    address = f"file://{folder}/store/data"
    with SampleWriter(address, SPEC) as writer:
        columns = {"m": np.ones((2, 16, 24), np.float32), "u": np.zeros((2, 4, 3), np.float32)}
        writer.append(columns, episode=np.zeros(2, int), step=np.arange(2), seed=np.zeros(2, "u8"))
    view(address, "--sample", "1", "--png", "one.png", *SMALL)
    assert (folder / "one.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "--png", "one.png"], "there is no dataset at"),
        (["crane:Crane", "--png", "one.png"], "seen by its samples: physgym generate crane:Crane --out"),
        (["data", "--sample", "99", "--png", "one.png"], "no sample 99; there are 6, from 0"),
        (["data", "--episode", "7", "--gif", "film.gif"], "no episode 7; there are 0, 1"),
        (["data", "--episode", "1", "--step", "7", "--gif", "film.gif"], "episode 1 has no step 7; it has 0, 1, 2"),
        (["data", "--mode", "test", "--png", "one.png"], "no test samples"),
        (["data", "--mode", "tests", "--png", "one.png"], "mode must be one of"),
        (["data", "--video", "film.gif"], r"ends with '\.gif'; write \.mp4"),
        (["data", "--gif", "film.mp4"], r"ends with '\.mp4'; write \.gif"),
        (["data", "--png", "one.jpg"], r"ends with '\.jpg'; write \.png"),
        (["data", "--png", "data"], "ends with ''"),
        (["data", "--frames", "data"], "there already"),
        (["data", "--png", "away/one.png"], "no folder"),
        (["data", "--size", "big", "--png", "one.png"], "--size 'big': write WIDTHxHEIGHT"),
        (["data", "--size", "0x5", "--png", "one.png"], "positive width and height"),
        (["data", "--size", "99999x9", "--png", "one.png"], "of at most 10000, not"),
        (["data", "--side", "network", "--png", "one.png"], "no predictions"),
        (["data", "--side", "left", "--png", "one.png"], "side must be one of"),
        (["record", "--rejected", "--png", "one.png"], "no rejected samples"),
        (["data", "--allow-changed-code", "--png", "one.png"], "goes with --env"),
        (["data", "--grid", "3", "--gif", "film.gif"], "3 episodes at once of 2"),
        (["data", "--gif", "film.gif", "--fps", "60"], "50 frames a second"),
        (["data"], "no display"),
    ],
)
def test_what_is_wrong_is_one_error_and_nothing_is_written(folder, arguments, message):
    before = sorted(folder.rglob("*"))
    with pytest.raises((ConfigError, DatasetError), match=message):
        view(*arguments, *([] if "--size" in arguments else SMALL))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_a_session_shows_its_samples_and_a_record_its_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dataset = physgym.generate("physgym/BurgersStep-v0", "data", samples=25, num_envs=1, num_workers=0, progress=False)
    trainer = Trainer(MLP.from_spec(dataset.spec, hidden=(4,)), dataset, epochs=1, session="session", progress=False)
    trainer.fit()
    with Runner("physgym/BurgersStep-v0", trainer.predictor, record="record") as runner:
        runner.run(4, progress=False)
    capsys.readouterr()
    view("session", "--episode", "1", "--gif", "session.gif", "--speed", "0.5", "--fps", "20", *SMALL)
    assert capsys.readouterr().out == "session.gif: 5 pictures, 0.5 s\n"  # 5 steps of 0.05 s
    view("record", "--gif", "record.gif", "--size", "600x200")
    assert capsys.readouterr().out == "record.gif: 4 pictures, 0.4 s\n"
    view("record", "--sample", "2", "--env", "--png", "live.png", *SMALL)
    assert size(tmp_path / "live.png") == (160, 120)


def test_a_file_is_replaced_only_with_overwrite(folder):
    (folder / "one.png").write_text("mine")
    with pytest.raises(ConfigError, match=r"one\.png is there already"):
        view("data", "--png", "one.png", *SMALL)
    assert (folder / "one.png").read_text() == "mine"
    view("data", "--png", "one.png", "--overwrite", *SMALL)
    assert size(folder / "one.png") == (160, 120)


@pytest.mark.slow
def test_the_command_ends_with_2_and_says_one_line(folder):
    done = run_command(folder, "view", "data", "--sample", "99", "--png", "one.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no sample 99; there are 6, from 0\n"
