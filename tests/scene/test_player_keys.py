"""The keys of the player."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.scene.player import Player
from physgym.scene.player_keys import PlayerKeys
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
