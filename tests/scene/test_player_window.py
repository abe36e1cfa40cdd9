"""The player's window: off screen, and a real one under Xvfb with keys and the mouse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym.data.dataset import SampleDataset
from physgym.data.labels import Labels
from physgym.envs.track import Track
from physgym.errors import ConfigError
from physgym.scene.player_window import BELOW, SIZE, PlayerWindow
from physgym.scene.sample_view import SampleView
from tests.scene.test_sample_view import RECORD, store
from tests.support.display import display  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]
LOWEST = round((1 - BELOW) * SIZE[1])  # row below which the controls stand


def bright(pixels: np.ndarray) -> int:
    """First column of pixels in which the samples have the upper colour of viridis; the colour scale is behind it."""
    near = np.abs(pixels[:LOWEST].astype(int) - (253, 231, 37)).max(-1) < 12
    return int(np.argwhere(near)[:, 1].min())


@pytest.fixture
def window(tmp_path):
    with PlayerWindow(SampleView(store(tmp_path / "data", episodes=2, steps=20)), offscreen=True) as made:
        yield made


@pytest.mark.slow
def test_it_shows_the_sample_that_the_player_is_at(window):
    first = bright(window.pixels())
    before = window.pixels()[LOWEST:]
    window.press("Right")
    window.press("Right")
    assert window.turn(0.0)
    assert window.player.position == 2
    assert bright(window.pixels()) > first + 10
    assert not np.array_equal(window.pixels()[LOWEST:], before)  # line and slider
    window.press("space")
    window.turn(0.35)  # ten samples a second
    assert window.player.position == 5


@pytest.mark.slow
def test_what_stands_still_is_not_drawn_again(window, monkeypatch):
    drawn = []
    monkeypatch.setattr(window._window, "show", drawn.append)
    assert window.turn(0.1)
    window.press("r")
    window.turn(0.1)  # the line alone
    assert drawn == []
    window.press("Down")
    window.turn(0.1)
    assert len(drawn) == 1


@pytest.mark.slow
def test_solver_network_and_error_stand_side_by_side_and_episodes_as_well(tmp_path):
    record = store(tmp_path / "record", spec=RECORD, mode="prediction")
    with PlayerWindow(SampleView(record), offscreen=True) as window:
        assert [title.split(",")[0] for title in window._titles] == ["solver", "network", "error"]
    with PlayerWindow(SampleView(record, sides=["solver"], grid=2), offscreen=True) as window:
        assert window._titles == ["episode 0, step 0", "episode 1, step 0"]
        window.press("Right")
        window.turn(0.0)
        assert window._titles == ["episode 0, step 1", "episode 1, step 1"]


@pytest.mark.slow
def test_a_rejected_sample_says_why(tmp_path):
    view = SampleView(store(tmp_path / "data", rejected=True), rejected=True)
    with PlayerWindow(view, offscreen=True) as window:
        window.press("x")
        window.turn(0.0)
        assert "rejected: diverged" in window._status.GetInput()


@pytest.mark.slow
def test_what_was_recorded_is_labelled_by_keys(tmp_path):
    env = physgym.Recorder(Track(observation="state", tracks=(1, 2)), tmp_path / "data")
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.close()
    dataset = SampleDataset(tmp_path / "data")
    with PlayerWindow(SampleView(dataset), offscreen=True) as window:
        before = window.pixels()[LOWEST:]
        for key in ("Right", "m", "Right", "2"):
            window.press(key)
        assert window.turn(0.0)
        assert not np.array_equal(window.pixels()[LOWEST:], before)
    assert {name: str(Labels(dataset).of(*name)) for name in Labels(dataset)} == {(0, 1): "bad", (0, 2): "bad"}


def test_without_a_display_the_error_names_what_needs_none(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=r"no display .*--video out\.mp4, --gif out\.gif, --png"):
        SampleView(store(tmp_path / "data")).show()


@pytest.mark.slow
def test_a_real_window_takes_keys_and_clicks_and_closes(tmp_path, display):  # noqa: F811 - the fixture
    store(tmp_path / "data", episodes=2, steps=20)
    command = [sys.executable, "-m", "tests.scene.test_player_window", str(tmp_path / "data")]
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["positions"] == [0, 1, 3, 20, 0]
    assert np.all(np.diff(found["columns"][:3]) > 5)  # the bright column is further to the right
    assert found["columns"][4] == found["columns"][0]
    assert found["slid"] > 25
    assert found["playing"] == [True, False]
    assert found["open"] == [True, False]


def drive(data: str) -> None:
    """Open a window, press keys as a keyboard does, click, and print what was seen."""
    view = SampleView(SampleDataset(data))
    found: dict[str, list] = {"positions": [], "columns": [], "playing": [], "open": []}
    with PlayerWindow(view) as window:
        interactor = window._window.plotter.interactor

        def press(*keys: str) -> None:
            for key in keys:
                interactor.SetKeySym(key)
                interactor.InvokeEvent("KeyPressEvent")
            assert window.turn(0.0)

        def click(x: int, y: int) -> None:
            interactor.SetEventInformation(x, y, 0, 0, "0", 0, "")
            interactor.InvokeEvent("LeftButtonPressEvent")
            interactor.InvokeEvent("LeftButtonReleaseEvent")

        for keys in ([], ["Right"], ["Right", "Right"], ["g", "1", "Return"], ["Home"]):
            press(*keys)
            found["positions"].append(window.player.position)
            found["columns"].append(bright(window.pixels()))
        slider = window._slider.GetRepresentation()
        ends = [
            p.GetComputedDisplayValue(window._window.plotter.renderer)
            for p in (slider.GetPoint1Coordinate(), slider.GetPoint2Coordinate())
        ]
        click(round(0.2 * ends[0][0] + 0.8 * ends[1][0]), ends[0][1])
        for _ in range(30):
            window.turn(0.0)
        found["slid"] = window.player.position
        button = window._buttons["play"][0].GetPositionCoordinate()
        x, y = button.GetComputedDisplayValue(window._window.plotter.renderer)
        for _ in range(2):
            click(x + 8, y - 6)
            found["playing"].append(window.player.playing)
        found["open"].append(window.turn(0.0))
        interactor.SetKeySym("q")
        interactor.InvokeEvent("KeyPressEvent")
        found["open"].append(window.turn(0.0))
    print(json.dumps(found))  # noqa: T201 - for the test


if __name__ == "__main__":
    drive(sys.argv[1])
