"""A person who drives: inputs as actions, real time, a recording like an agent's, a window and a gamepad."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym import SampleDataset
from physgym.cli import app
from physgym.envs.track import Track
from physgym.errors import ConfigError
from physgym.rl import drive as tested
from physgym.rl.drive import PersonActs, drive, step_seconds
from physgym.rl.gamepad import Gamepad, Pygame
from physgym.scene.live import LiveScene
from physgym.testing.fake_donkey import FakeDonkey
from physgym.worker.given_inputs import GivenInputs
from tests.scene.test_player_window import ROOT, display  # noqa: F401 - a fixture
from tests.support.watching import until


class Hands:
    """A person without a window: it opens at once, and inputs are given before each step."""

    def __init__(self, monkeypatch, inputs=None, leaves=10**9):
        self.opened, self.paced, self.inputs, self.leaves = [], 0, inputs or {}, leaves
        hands = self

        class View(tested.DriverView):
            watched = property(lambda view: hands.paced < hands.leaves)

            def open(self, view, title):
                hands.opened.append((view, title))

            def attend(self):
                for name, value in hands.inputs.get(hands.paced, {}).items():
                    self._give([(0, name, value)])
                hands.paced += 1

        monkeypatch.setattr(tested, "DriverView", View)
        monkeypatch.setattr(tested, "_check_display", lambda: None)
        monkeypatch.setattr(tested, "PAUSE", 0.0)


def track(**arguments):
    return Track(observation="state", tracks=(1, 2), **arguments)


@pytest.mark.slow
def test_what_a_person_does_is_recorded_as_an_agents_steps_are(tmp_path, monkeypatch):
    inputs = {3: {"throttle": 1.0}, 20: {"steering": 1.0}, 25: {"steering": 0.0}}
    hands = Hands(monkeypatch, inputs, leaves=41)
    said = []
    begin = time.monotonic()
    driven = drive(track, record=tmp_path, infos=["speed"], say=said.append)
    assert 1.8 < time.monotonic() - begin < 60  # 40 steps of 0.05 s
    assert (driven.lengths, len(driven.returns)) == ([40], 1)
    assert hands.opened[0][0] == "vedo"
    assert said[0].startswith("Right, Left: steering    Down, Up: throttle")
    made = SampleDataset(tmp_path)
    assert made.source["acted_by"] == "person"
    assert len(made) == 41
    rows = made.read(0, 41, ["action", "acted", "info/speed", "reward"])
    np.testing.assert_array_equal(rows["action"][:3], 0)
    np.testing.assert_allclose(rows["action"][3:9, 1], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-6)  # 0.25 s
    assert rows["action"][24, 0] == 1
    assert rows["action"][29:40, 0].max() == 0
    assert rows["acted"].sum() == 40
    assert rows["info/speed"][39] > 3
    assert rows["reward"].sum() == pytest.approx(driven.returns[0])
    again = track()  # as a Recorder has it of any library
    again.reset(seed=int(made.index("seed")[0]))
    for action, speed in zip(rows["action"][:40], rows["info/speed"][:40], strict=True):
        assert again.step(action)[-1]["speed"] == speed


def test_episodes_follow_one_another_with_seeds_of_their_own(tmp_path, monkeypatch):
    Hands(monkeypatch)
    monkeypatch.setattr(tested, "step_seconds", lambda env: 0.001)
    said = []
    driven = drive(
        lambda **kw: gymnasium.wrappers.TimeLimit(track(**kw), 5), record=tmp_path, episodes=3, seed=4, say=said.append
    )
    assert driven.lengths == [5, 5, 5]
    assert [line for line in said if line.startswith("episode")][2].startswith("episode 2: 5 steps, return")
    made = SampleDataset(tmp_path)
    assert len(set(made.index("seed").tolist())) == 3
    with pytest.raises(physgym.errors.DatasetError, match="resume=True"):
        drive(track, record=tmp_path, episodes=1, say=said.append)
    drive(
        lambda **kw: gymnasium.wrappers.TimeLimit(track(**kw), 5),
        record=tmp_path,
        episodes=1,
        resume=True,
        say=said.append,
    )
    more = SampleDataset(tmp_path)
    assert len(more) == 24
    assert len(set(more.index("seed").tolist())) == 4  # not those of before once more


def test_ctrl_c_ends_it_with_what_was_driven(tmp_path, monkeypatch):
    hands = Hands(monkeypatch)
    monkeypatch.setattr(tested, "step_seconds", lambda env: 0.01)

    def press():
        until(lambda: hands.paced > 20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    driven = drive(track, record=tmp_path, say=lambda line: None)
    assert 5 < driven.lengths[0] < hands.paced + 1
    made = SampleDataset(tmp_path)
    assert len(made) == driven.lengths[0] + 1
    assert not made[len(made) - 1]["acted"]


@pytest.mark.slow
def test_a_simulator_with_a_clock_of_its_own_is_not_paced(tmp_path, monkeypatch):
    Hands(monkeypatch, {2: {"throttle": 0.5}}, leaves=15)
    with FakeDonkey(period=0.01) as fake:
        driven = drive(
            "physgym/DonkeyCar-v0",
            env_kwargs={"port": fake.port, "timeout": 10},
            record=tmp_path,
            infos=["cte", "hit"],
            say=lambda line: None,
        )
    assert driven.lengths == [14]
    assert driven.late == 0
    made = SampleDataset(tmp_path)
    assert {name: made.source[name] for name in ("acted_by", "real_time")} == {"acted_by": "person", "real_time": True}
    assert made[0]["observation"].shape == (120, 160, 3)
    assert "exit_scene" in fake.kinds()


def test_the_scene_has_inputs_and_what_the_driver_sees():
    env = GivenInputs(PersonActs(Track(tracks=(1, 2)), 0.05))
    assert {name: one.keys for name, one in env.given_inputs.items()} == {
        "steering": ("Right", "Left"),
        "throttle": ("Down", "Up"),
    }
    assert all(one.springs for one in env.given_inputs.values())
    seen, _ = env.reset(seed=0)
    live = LiveScene(env)
    live.frame()
    shown = live.snapshot["objects"]
    np.testing.assert_array_equal(shown["camera"]["values"], seen)
    assert {"car", "left edge"} <= shown.keys()
    assert set(live.snapshot["inputs"]) == {"steering", "throttle"}
    assert "camera" not in live_objects(PersonActs(track(), 0.05))


def live_objects(env):
    env.reset(seed=0)
    live = LiveScene(env)
    live.frame()
    return live.snapshot["objects"]


def test_choices_are_given_by_keys_too_and_what_no_person_can_give_is_refused():
    env = PersonActs(gymnasium.make("CartPole-v1"), 0.02)
    env.reset(seed=0)
    assert list(env.axes) == ["action"]
    assert env.next_action() == 0
    env.take_input("action", 1.0)
    assert env.next_action() == 1
    assert env.step()[0].shape == (4,)

    class Wide(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = spaces.Box(-1, 1, (7,))

    with pytest.raises(ConfigError, match="keys for 4 numbers of an action, not for 7"):
        PersonActs(Wide(), 0.05)
    Wide.action_space = spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ConfigError, match="numbers between bounds"):
        PersonActs(Wide(), 0.05)


def test_a_step_takes_what_the_simulation_says():
    assert step_seconds(track(simulations_per_step=2)) == pytest.approx(0.1)
    assert step_seconds(gymnasium.make("CartPole-v1")) == pytest.approx(0.02)  # frames in a second


def test_without_a_display_it_is_refused_and_the_page_is_offered(monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError, match=r"no display .*--view web gives a page with sliders"):
        drive(track, record=tmp_path / "data")
    assert not (tmp_path / "data").exists()
    with pytest.raises(ConfigError, match="episodes"):
        drive(track, episodes=0)
    with pytest.raises(ConfigError, match="view"):
        drive(track, view="paper")


# --- gamepads


class Pad:
    name = "a pad"

    def __init__(self, axes):
        self.now = axes

    def axes(self):
        return self.now


class Pads:
    """A library of gamepads that are there or not."""

    def __init__(self, *events):
        self.events, self.pads, self.closed = list(events), {}, False

    def news(self):
        found, self.events = self.events, []
        return found

    def open(self, number):
        return self.pads.setdefault(number, Pad([0.0] * 4))

    def close(self):
        self.closed = True


def test_a_gamepad_that_has_lost_its_link_is_at_rest_and_taken_again_when_it_comes_back():
    said, library = [], Pads(("added", 3))
    with Gamepad(said.append, library) as pad:
        assert said == ["gamepad: a pad"]
        library.pads[3].now = [0.5, -1.0, 0.03, 0.0]
        assert pad.values(2) == [0.5, 1.0]  # up is positive
        assert pad.values(4)[2] == 0  # its middle is not exact
        library.events = [("removed", 3)]
        assert pad.values(2) == [0.0, 0.0]  # in place of its last value
        assert said[-1] == "the gamepad is gone: at rest until it comes back"
        library.events = [("added", 4)]  # as another device
        library.pads[4] = Pad([-0.25, 0.0])
        assert pad.values(2) == [-0.25, 0.0]
        assert said[-1] == "gamepad: a pad"
        library.events = [("added", 5), ("removed", 5)]  # of somebody else
        assert pad.values(1) == [-0.25]
    assert library.closed


def test_a_gamepad_that_repeats_its_last_value_for_long_is_at_rest():
    now, said, library = [0.0], [], Pads(("added", 0))
    pad = Gamepad(said.append, library, clock=lambda: now[0])
    library.pads[0].now = [1.0, 0.0]
    assert pad.values(1) == [1.0]
    now[0] = 9.0
    assert pad.values(1) == [1.0]
    now[0] = 11.0
    assert pad.values(1) == [0.0]
    assert "may have lost its link" in said[-1]
    library.pads[0].now = [0.9, 0.0]
    assert pad.values(1) == [0.9]
    assert said[-1] == "the gamepad moves again"
    library.pads[0].now = [0.0, 0.0]
    pad.values(1)
    now[0] = 100.0
    pad.values(1)
    assert said[-1] == "the gamepad moves again"  # one at rest need not move


def test_no_gamepad_is_an_error():
    library = Pads()
    with pytest.raises(ConfigError, match="there is no gamepad"):
        Gamepad(print, library)
    assert library.closed


def test_pygame_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r"pip install 'physgym\[gamepad\]'"):
        Pygame()


def test_pygame_finds_no_gamepad_here():
    pytest.importorskip("pygame", reason="pygame-ce is not installed")
    library = Pygame()
    try:
        assert library.news() == []
    finally:
        library.close()


def test_the_sticks_drive(monkeypatch, tmp_path):
    Hands(monkeypatch, leaves=12)
    library = Pads(("added", 0))
    library.pads[0] = Pad([-1.0, -0.5, 0.0, 0.0])  # to the left and up
    monkeypatch.setattr(tested, "Gamepad", lambda say: Gamepad(say, library))
    monkeypatch.setattr(tested, "step_seconds", lambda env: 0.01)
    drive(track, record=tmp_path, gamepad=True, ramp=0, say=lambda line: None)
    actions = SampleDataset(tmp_path).read(0, 11, ["action"])["action"]
    np.testing.assert_allclose(actions, [[1.0, 0.5]] * 11)


# --- from end to end


def test_the_command_hands_its_options_on(monkeypatch):
    given = {}
    monkeypatch.setattr(tested, "drive", lambda env, **options: given.update(options, env=env))
    words = ["drive", "physgym/Track-v0", "--record", "data/me", "--info", "cte", "--episodes", "2", "--arg", "laps=1"]
    app([*words, "--view", "web"], standalone_mode=False)
    wanted = {"env": "physgym/Track-v0", "record": Path("data/me"), "infos": ["cte"], "episodes": 2, "view": "web"}
    assert given | wanted | {"env_kwargs": {"laps": 1}} == given


def find_window(environment, title):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done = subprocess.run(["xdotool", "search", "--name", title], env=environment, capture_output=True, text=True)
        if found := done.stdout.split():
            return found[0]
        time.sleep(0.3)
    raise AssertionError("there is no window")


@pytest.mark.slow
def test_keys_of_a_real_window_drive_the_car(tmp_path, display):  # noqa: F811
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed, so that nobody presses keys")
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "physgym", "drive", "physgym/Track-v0", "--record", str(tmp_path / "data")]
    command += ["--arg", "tracks=[1, 2]", "--arg", "max_cte=1000"]

    def keys(*words):
        subprocess.run(["xdotool", *words], env=environment, check=True, timeout=60)

    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driving:
        window = find_window(environment, "drive physgym/Track-v0")
        time.sleep(2)
        keys("windowfocus", window, "keydown", "Up")
        time.sleep(1.5)
        keys("keydown", "Left")
        time.sleep(1.5)
        keys("keyup", "Left")
        time.sleep(1.0)
        keys("keyup", "Up")
        time.sleep(1.5)
        keys("key", "q")
        text = driving.communicate(timeout=60)[0]
    assert driving.returncode == 0
    assert "episode 0: " in text
    made = SampleDataset(tmp_path / "data")
    steering, throttle = made.read(0, len(made) - 1, ["action"])["action"].T
    assert throttle.max() == 1  # press
    assert throttle[-1] == 0  # and release
    assert steering.max() > 0.5
    assert steering.min() == 0
    assert steering[-1] == 0
