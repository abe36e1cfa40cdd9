"""Where the player is, and how it moves."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.errors import ConfigError
from physgym.scene.player import Player, shown_at, title_of
from tests.scene.test_timeline import timeline

EPISODES, STEPS = [0, 0, 0, 1, 1, 5], [0, 1, 2, 0, 1, 0]


@pytest.fixture
def player() -> Player:
    return Player(timeline(EPISODES, STEPS), speed=2.0)  # two steps a second


def test_time_moves_it_as_fast_as_its_speed_says(player):
    assert not player.advance(10)  # it is not playing
    player.play()
    assert [(player.advance(0.25), player.position) for _ in range(4)] == [(False, 0), (True, 1), (False, 1), (True, 2)]
    player.faster()
    assert player.advance(0.25)
    assert (player.position, player.speed) == (3, 4.0)
    player.faster(1 / 8)
    assert player.speed == 0.5


def test_it_stops_at_the_end_and_plays_again_from_the_beginning(player):
    player.play()
    assert player.advance(100)
    assert (player.position, player.playing) == (5, False)
    player.play()
    assert (player.position, player.playing) == (0, True)


def test_it_plays_backwards(player):
    player.seek(4)
    player.play(backwards=True)
    moved = [(player.advance(0.25), player.position) for _ in range(4)]
    assert moved == [(False, 4), (True, 3), (False, 3), (True, 2)]
    assert player.playing
    assert player.advance(100)
    assert (player.position, player.playing) == (0, False)


def test_it_repeats_an_episode(player):
    player.repeat = True
    player.seek(4)  # the last one of episode 1
    player.play()
    player.advance(0.5)
    assert (player.position, player.playing) == (3, True)
    player.advance(0.5)
    assert player.position == 4
    player.play(backwards=True)
    assert [(player.advance(0.25), player.position) for _ in range(4)] == [(False, 4), (True, 3), (False, 3), (True, 4)]


def test_it_steps_and_skips_and_jumps(player):
    player.play()
    player.step(2)
    assert (player.position, player.playing) == (2, False)
    player.step(-9)
    assert player.position == 0
    player.skip(1)
    assert player.position == 3
    player.step(1)
    player.skip(-1)  # first to the beginning of this one
    assert player.position == 3
    player.skip(-1)
    assert player.position == 0
    player.skip(99)
    assert player.position == 5
    player.jump(1, 1)
    assert player.position == 4
    with pytest.raises(ConfigError, match="no step 7"):
        player.jump(1, 7)
    assert player.position == 4


def test_it_finds_rejected_samples():
    rejected = np.array([False, True, False, False, True, False])
    player = Player(timeline(EPISODES, STEPS, rejected=rejected))
    found = []
    for _ in range(3):
        assert player.next_rejected()
        found.append(player.position)
    assert found == [1, 4, 1]
    assert not Player(timeline(EPISODES, STEPS)).next_rejected()


def test_usually_ten_samples_are_shown_a_second():
    assert Player(timeline([0, 0, 0], [0, 1, 2], [0.1, 0.2, 0.3])).speed == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="speed must be positive"):
        Player(timeline([0], [0]), speed=0)


def test_a_sample_has_a_title_and_the_player_a_line():
    seconds = timeline([0, 0], [0, 1], [0.1, 0.2])
    assert title_of(seconds, 1) == "episode 0, step 1, 0.2 s"
    assert title_of(timeline([0, 0], [0, 1]), 1) == "episode 0, step 1"
    rejected = timeline([0, 0], [0, 1], rejected=np.array([True, False]), folder=np.array([0, 1]))
    assert title_of(rejected, 0) == "folder 0, episode 0, step 0, rejected"
    player = Player(seconds, speed=0.5)
    assert player.text == "pause, 0.5 s a second"
    player.repeat = True
    player.play(backwards=True)
    assert player.text == "back, 0.5 s a second, repeat"


def test_a_film_follows_the_time_of_the_samples():
    even = timeline([0, 0, 0], [0, 1, 2])
    assert shown_at(even, speed=10.0, fps=10.0) == [0, 1, 2]
    assert shown_at(even, speed=5.0, fps=10.0) == [0, 0, 1, 1, 2, 2]
    assert shown_at(even, speed=20.0, fps=10.0) == [1, 2]
    uneven = timeline([0, 0, 0], [0, 1, 2], [0.1, 0.2, 0.5])
    assert shown_at(uneven, speed=1.0, fps=10.0) == [0, 1, 1, 1, 2, 2]
    assert shown_at(uneven, speed=1e9, fps=1.0) == [2]
