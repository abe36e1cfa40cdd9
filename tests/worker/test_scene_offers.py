"""Frames of watched environments: at most at the rate, only where there is room, and never an end of the run."""

from __future__ import annotations

import contextlib

import pytest

from physgym.errors import SceneError
from physgym.protocol.messages import LARGEST_PART, WatchScenes
from physgym.protocol.msgpack_values import decode_value
from physgym.worker import scene_offers
from physgym.worker.scene_offers import SceneOffers


class Scenery:
    """A scene whose frames say how often it was asked, and for what."""

    def __init__(self, size=0, fails=()):
        self.size, self.fails, self.asked = size, fails, []

    def frame(self, sample=None, *, whole=False):
        self.asked.append((sample, whole))
        if len(self.asked) in self.fails:
            raise SceneError("no picture")
        return {"number": len(self.asked), "filling": bytes(self.size)}


class Line:
    """A connection that takes so many parts."""

    def __init__(self, room=10**9):
        self.room, self.parts = room, []

    def __call__(self, part):
        if not self.room:
            return False
        self.room -= 1
        self.parts.append(part)
        return True

    def frames(self):
        found, data = [], b""
        for part in self.parts:
            assert len(part.data) <= LARGEST_PART
            data = part.data if part.place == 0 else data + part.data
            if part.place + 1 == part.parts:
                found.append((part.env, decode_value(data)))
        return found


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(scene_offers.time, "perf_counter", lambda: now[0])
    return now


def offers(line, **of):
    made = {}

    def make(row):
        made[row] = Scenery(**of)
        return made[row]

    return SceneOffers(make, lambda row: contextlib.nullcontext(), line), made


def test_nothing_is_made_while_nobody_looks(clock):
    line = Line()
    found, made = offers(line)
    assert not found.watched
    found.watch(WatchScenes([1], 0.0))
    found.watch(WatchScenes([], 0.0))
    assert not found.watched
    found.made(1, 0, 0, None)
    found.stepped(range(3), {})
    assert (line.parts, made[1].asked) == ([], [])


def test_frames_come_at_most_at_the_rate_and_name_their_step(clock):
    line = Line()
    found, made = offers(line)
    found.watch(WatchScenes([2], 0.1))
    for step in range(30):
        found.made(2, 7, step, {"x": step})
        found.made(0, 8, step, None)  # of another environment
        clock[0] += 0.01
    assert [(env, frame["episode"], frame["step"]) for env, frame in line.frames()] == [
        (2, 7, 0),
        (2, 7, 10),
        (2, 7, 20),
    ]
    assert made[2].asked == [({"x": step}, False) for step in (0, 10, 20)]


def test_a_step_of_all_gives_frames_of_those_that_are_watched_and_stepped(clock):
    line = Line()
    found, made = offers(line)
    found.watch(WatchScenes([0, 2, 3], 0.0))
    found.stepped([0, 1, 2], {2: {"sample": "of 2"}})
    assert [env for env, _ in line.frames()] == [0, 2]
    assert made[2].asked == [("of 2", False)]
    found.begin([3])
    assert [env for env, _ in line.frames()] == [0, 2, 3]


def test_of_environments_that_step_in_turn_each_is_seen_at_its_rate(clock):
    line = Line()
    found, _ = offers(line)
    found.watch(WatchScenes([0, 1], 0.03))
    for number in range(40):  # 0.02 s each: every second one comes before 0.03 s are over
        found.stepped([number % 2], {})
        clock[0] += 0.02
    seen = [env for env, _ in line.frames()]
    assert seen.count(0) == seen.count(1) == 20


def test_what_finds_no_room_is_left_out_and_counted_and_half_a_frame_waits_for_nobody(clock):
    line = Line(room=1)
    found, made = offers(line, size=3 * LARGEST_PART)
    found.watch(WatchScenes([0], 0.1))
    for step in range(50):
        found.made(0, 0, step, None)
        clock[0] += 0.1
    assert len(line.parts) == 1
    assert len(made[0].asked) == 1, "frames are made that nobody can get"
    line.room = 10**9
    found.made(0, 0, 50, None)
    (_, first), (_, second) = line.frames()
    assert (first["step"], first["dropped"]) == (0, 0)
    assert (second["step"], second["dropped"]) == (50, 49)


def test_a_picture_that_fails_is_said_once_and_comes_whole_afterwards(clock):
    line = Line()
    found, made = offers(line, fails=(2, 3))
    found.watch(WatchScenes([0], 0.0))
    for step in range(5):
        found.made(0, 0, step, None)
    assert [frame.get("error") or frame["step"] for _, frame in line.frames()] == [0, "SceneError: no picture", 3, 4]
    assert [whole for _, whole in made[0].asked] == [False, False, True, True, False]


def test_a_picture_that_cannot_travel_ends_nothing(clock):
    line = Line()
    found, made = offers(line)
    found.watch(WatchScenes([0], 0.0))
    made[0].frame = lambda sample, whole: {"thing": object()}
    found.made(0, 0, 0, None)
    assert "object" in line.frames()[0][1]["error"]


class Silent(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    "error", [ValueError("data\udcff"), Silent(), ValueError("x" * 10**6)], ids=["surrogate", "silent", "long"]
)
def test_an_error_whose_text_cannot_travel_ends_nothing(clock, error):
    line = Line()
    found, made = offers(line)
    found.watch(WatchScenes([0], 0.0))

    def frame(sample, whole):
        raise error

    made[0].frame = frame
    found.made(0, 0, 0, None)
    text = line.frames()[0][1]["error"]
    assert text.startswith(type(error).__name__)
    assert len(text) <= 2000


def test_who_is_watched_again_begins_anew(clock):
    found, made = offers(Line())
    found.watch(WatchScenes([0, 1], 0.0))
    first = made[0]
    found.watch(WatchScenes([0], 0.0))
    assert found.watched == {0: first}
    found.watch(WatchScenes([0, 1], 0.5))
    assert found.watched == {0: first, 1: made[1]}
    assert not made[1].asked
