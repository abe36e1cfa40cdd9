"""What viewers see and wish: the latest frame of each environment, put together from parts."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from physgym.protocol.messages import ScenePart, WatchScenes
from physgym.protocol.msgpack_values import encode_value
from physgym.viewing.views import SceneViews, requests
from tests.support.watching import until

SNAPSHOT = {"title": "", "camera": {}, "objects": {"ball": {"kind": "points", "points": np.zeros((1, 3))}}}


def parts(env, *, x=0.0, full=True, step=0, pieces=1, **more):
    item = {"points": np.full((1, 3), x)}
    frame = {"full": full, "objects": {"ball": item}, "new": [], "absent": {}, "removed": []}
    if full:
        frame |= {"title": "t", "camera": {}, "new": ["ball"], "objects": {"ball": {"kind": "points", **item}}}
    data = encode_value({"episode": None, "step": step, "dropped": 2, "frame": frame, **more})
    size = -(-len(data) // pieces)
    return [ScenePart(env, n, pieces, data[n * size : (n + 1) * size]) for n in range(pieces)]


def test_frames_are_put_together_and_applied():
    views = SceneViews(8)
    for part in [*parts(1, pieces=3), *parts(1, x=5.0, full=False, step=4)]:
        views.take(4, part)
    (env,) = views.shots
    shot = views.shots[env]
    assert (env, shot.number, shot.step, shot.dropped, shot.error) == (5, 2, 4, 4, "")
    assert (shot.snapshot["title"], shot.snapshot["objects"]["ball"]["points"][0, 0]) == ("t", 5.0)


def test_half_a_frame_of_an_earlier_connection_is_forgotten():
    views = SceneViews(2)
    views.take(0, parts(0, pieces=3)[0])
    for part in parts(0, x=1.0, pieces=2):
        views.take(0, part)
    assert views.shots[0].number == 1
    views.take(0, parts(0, pieces=3)[2])
    assert views.shots[0].number == 1


@pytest.mark.parametrize(
    "part",
    [
        ScenePart(0, 0, 1, b"\xc1"),
        ScenePart(0, 0, 1, encode_value(5)),
        ScenePart(0, 0, 1, encode_value({"episode": 0, "step": 0, "dropped": 0, "frame": {"full": True}})),
        parts(0, full=False)[0],
    ],
    ids=["no value", "no map", "no frame", "nothing before it"],
)
def test_what_is_no_frame_is_said_once_and_ends_nothing(part):
    views = SceneViews(1)
    with pytest.warns(RuntimeWarning, match="environment 0 has no picture"):
        views.take(0, part)
    views.take(0, part)  # a second warning would be an error
    assert views.shots[0].error
    views.take(0, parts(0)[0])
    assert not views.shots[0].error


def test_errors_that_name_a_value_are_said_a_few_times():
    views = SceneViews(2)
    errors = [ScenePart(0, 0, 1, encode_value({"error": f"NaN at {number}"})) for number in range(50)]
    with pytest.warns(RuntimeWarning) as said:
        list(map(views.take, [0] * 50, errors))
    assert len(said) == 10
    assert "Others are shown to viewers alone" in str(said[-1].message)
    assert views.shots[0].error == "NaN at 49"
    with pytest.warns(RuntimeWarning, match="environment 1"):
        views.take(0, ScenePart(1, 0, 1, encode_value({"error": "NaN"})))


def test_wishes_of_several_viewers_are_joined_and_told_once():
    views, told = SceneViews(4), []
    assert not views.attention
    views.wish("a", [0, 3, 9, -1], 0.1)
    views.wish("b", [3], 0.02)
    assert views.attention
    views.attend(told.append, lambda: False)
    assert told == [{0: 0.1, 3: 0.02}]
    assert not views.attention
    views.wish("b", [3], 0.02)  # nothing new
    assert not views.attention
    views.renew()
    views.leave("b", control=False)
    views.attend(told.append, lambda: False)
    views.leave("a", control=False)
    views.attend(told.append, lambda: False)
    assert told[1:] == [{0: 0.1, 3: 0.1}, {}]
    views.renew()
    assert not views.attention, "with nobody watching, there is nothing to say again"


def test_a_worker_is_asked_for_its_own_environments():
    wanted = {0: 0.5, 3: 0.1, 4: 0.2}
    assert requests(wanted, range(3, 6)) == WatchScenes([0, 1], 0.1)
    assert requests(wanted, range(6, 8)) == WatchScenes([], 0.0)


def test_a_run_pauses_makes_single_steps_and_goes_on():
    views, steps = SceneViews(1), []
    views.control("pause")

    def run():
        for step in range(6):
            if views.attention:
                views.attend(lambda wanted: None, lambda: False)
            steps.append(step)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for made in (0, 1, 2):
        until(lambda made=made: len(steps) == made)
        time.sleep(0.06)
        assert len(steps) == made
        views.control("step")
    views.control("resume")
    thread.join(10)
    assert steps == list(range(6))
    assert not views.attention


@pytest.mark.parametrize("end", ["run", "viewer", "views"])
def test_a_pause_ends_with_the_run_or_its_viewer(end):
    views, over = SceneViews(1), []
    views.control("pause")
    thread = threading.Thread(target=lambda: views.attend(lambda wanted: None, lambda: bool(over)), daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    {"run": lambda: over.append(1), "viewer": lambda: views.leave("x", control=True), "views": views.close}[end]()
    thread.join(10)
    assert not thread.is_alive()
