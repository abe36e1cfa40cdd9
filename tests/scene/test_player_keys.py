"""The keys of the player."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from physgym import Recorder, SampleDataset
from physgym.data.labels import Labels
from physgym.envs.track import Track
from physgym.scene.player import Player
from physgym.scene.player_keys import PlayerKeys
from physgym.scene.timeline import timeline_of
from tests.scene.test_timeline import timeline

SHOWN = timeline([0, 0, 0, 12, 12], [0, 1, 2, 0, 5], rejected=np.array([False, True, False, False, False]))


@pytest.fixture
def player() -> Player:
    return Player(SHOWN)


def pressed(player: Player, *names: str) -> PlayerKeys:
    keys = PlayerKeys(player)
    for name in names:
        assert keys.press(name)
    return keys


@pytest.mark.parametrize(
    ("names", "position", "playing"),
    [
        (["Right"], 1, False),
        (["Right", "Right", "Left"], 1, False),
        (["Down"], 3, False),
        (["Down", "Up"], 0, False),
        (["End"], 4, False),
        (["End", "Home"], 0, False),
        (["space"], 0, True),
        (["space", "space"], 0, False),
        (["b"], 4, True),
        (["x"], 1, False),
        (["g", "1", "2", "comma", "5", "Return"], 4, False),
        (["g", "KP_1", "2", "KP_Enter"], 3, False),
        (["g", "1", "2", "Escape", "Right"], 1, False),
        (["g", "1", "2", "3", "BackSpace", "Return"], 3, False),
        (["g", "Return"], 0, False),
    ],
)
def test_keys_move_the_player(player, names, position, playing):
    assert pressed(player, *names).message == ""
    assert (player.position, player.playing) == (position, playing)


def test_speed_and_repetition(player):
    usual = player.speed
    pressed(player, "plus", "equal", "minus")
    assert player.speed == 2 * usual
    pressed(player, "r")
    assert player.repeat
    pressed(player, "r")
    assert not player.repeat


def test_what_is_typed_is_seen_and_what_leads_nowhere_is_said(player):
    keys = pressed(player, "g", "1", "comma", "comma", "a", "7")
    assert keys.message == "episode, step: 1,7_"
    assert keys.press("Return")
    assert keys.message == "there is no episode 1; there are 0, 12"
    assert player.position == 0
    assert keys.press("Right")
    assert keys.message == ""
    assert not PlayerKeys(player).press("F5")


def test_without_rejected_samples_the_key_says_so():
    player = Player(timeline([0], [0]))
    assert "--rejected" in pressed(player, "x").message


# --- labels


@pytest.fixture
def labelled(tmp_path):
    """Keys of a player of a recording, and its labels."""
    env = Recorder(gymnasium.wrappers.TimeLimit(Track(observation="state", tracks=(1, 2)), 4), tmp_path / "data")
    for seed in range(2):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(env.action_space.sample())
    env.close()
    dataset = SampleDataset(tmp_path / "data")
    labels = Labels(dataset)
    return PlayerKeys(Player(timeline_of(dataset)), labels), labels


def test_keys_label_the_step_that_is_shown_or_all_since_a_mark(labelled):
    keys, labels = labelled
    for key in ("Right", "2"):
        keys.press(key)
    assert list(labels) == [(0, 1)]
    assert keys.message == "bad: 1 step"
    assert keys.label(1) == "label: bad"
    for key in ("m", "Right", "Right"):
        keys.press(key)
    assert keys.label(3) == "marked: episode 0, step 1"
    keys.press("1")
    assert {name: labels.of(*name).verdict for name in labels} == dict.fromkeys([(0, 1), (0, 2), (0, 3)], "good")
    keys.press("0")
    assert list(labels) == [(0, 1), (0, 2)]


def test_the_right_action_is_typed(labelled):
    keys, labels = labelled
    for key in ("a", "minus", "0", "period", "2", "comma", "KP_1"):
        keys.press(key)
    assert keys.message == "right action: -0.2,1_"
    keys.press("Return")
    assert labels.of(0, 0).action == {"action": pytest.approx([-0.2, 1.0])}
    for text in ("a", "1", "Return"):
        keys.press(text)
    assert "has shape (2,)" in keys.message
    for text in ("a", "minus", "minus", "Return"):
        keys.press(text)
    assert "could not convert" in keys.message
    keys.press("m")
    keys.press("a")
    keys.press("Escape")
    assert keys.message == ""
    assert list(labels) == [(0, 0)]


def test_without_labels_their_keys_are_for_nothing(player):
    assert not PlayerKeys(player).press("2")
    assert PlayerKeys(player).label(0) == ""


def test_rejected_samples_get_no_label(labelled):
    keys, labels = labelled
    keys._player.timeline.rejected[1] = True
    for key in ("m", "Right", "Right", "2"):
        keys.press(key)
    assert list(labels) == [(0, 0), (0, 2)]
