"""The thread that serves viewers: it admits who knows the token, gives the latest, and waits for nobody."""

from __future__ import annotations

import socket
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from physgym.errors import ConfigError, ProtocolError
from physgym.scene.changes import apply
from physgym.scene.inputs import SceneInputs
from physgym.viewing import server as serving
from physgym.viewing import wire
from physgym.viewing.places import new_entry
from physgym.viewing.server import ViewServer
from physgym.viewing.views import SceneViews, Shot
from physgym.viewing.wire import Link, Received, dial, packed
from tests.support.watching import PATIENCE, until


def shot(number, *, size=1, dropped=0, error=""):
    ball = {"kind": "points", "points": np.full((size, 3), float(number)), "colour": "#000000"}
    return Shot(number, 1, number, {"title": "", "camera": {}, "objects": {"ball": ball}}, dropped, error)


STRANGE = [
    {"watch": [float("inf")], "interval": 0.1},
    {"watch": [0], "interval": 10**400},
    {"watch": np.array(5), "interval": 0.1},
    {"watch": {0: 1}, "interval": 0.1},
    {"watch": [0], "interval": 1j},
    {"do": np.array([1, 2])},
    {"input": [0, "push", 1.0]},
    {},
]


@pytest.fixture
def served(tmp_path):
    views = SceneViews(4)
    entry = new_entry("beam", [tmp_path])
    server = ViewServer(views, "beam", entry)
    yield views, server, entry
    views.close()
    assert not Path(entry.socket).exists()
    assert not entry.file.exists()


def put(views, server, env, one):
    views.shots[env] = one
    server.wake()


def adopted(server):
    ours, theirs = socket.socketpair()
    server.adopt(ours)
    link = Link(theirs)
    return link, link.receive(10)


def test_a_viewer_that_knows_the_token_is_admitted_and_may_not_pause(served):
    views, _, entry = served
    assert stat.S_IMODE(entry.file.parent.stat().st_mode) == 0o700
    link, words = dial(entry.socket, entry.token)
    assert {name: words[name] for name in ("title", "environments", "control")} == {
        "title": "beam",
        "environments": 4,
        "control": False,
    }
    link.send({"do": "pause"})
    with pytest.raises(EOFError):
        link.receive(10)
    assert not views.paused
    link.close()


def test_a_wrong_token_is_one_clear_error(served):
    _, _, entry = served
    with pytest.raises(ConfigError, match="the token is wrong"):
        dial(entry.socket, "00" * 32)
    link, _ = dial(entry.socket, entry.token)  # others are served all the same
    link.close()


def test_who_takes_the_place_of_a_run_without_the_token_is_noticed(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(10)
        with pytest.raises(ConfigError, match="does not answer within"):
            dial(path, "00" * 32, seconds=0.1)
    with pytest.raises(ConfigError, match="nobody listens"):
        dial(path, "00" * 32)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        wire.LENGTH.pack(1 << 20),
        packed({"proof": b"x", "nonce": b"y"}),
        packed({"proof": [1], "nonce": b"y"}),
        packed({"watch": [0], "interval": 0.0}),
    ],
    ids=["another protocol", "too long", "wrong proof", "no plain value", "no proof"],
)
def test_strangers_are_sent_away(served, data):
    views, _, entry = served
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(entry.socket)
        stranger.settimeout(10)
        stranger.sendall(data)
        while stranger.recv(4096):
            pass
    assert not views.attention


def test_a_viewer_gets_everything_first_then_what_changed(served):
    views, server, entry = served
    link, _ = dial(entry.socket, entry.token)
    link.send({"watch": [1, 2, 77], "interval": 0.0})
    until(lambda: views.attention)
    put(views, server, 1, shot(1))
    first = link.receive(10)
    put(views, server, 0, shot(1))  # nobody wants it
    put(views, server, 1, shot(2))
    second = link.receive(10)
    assert [(m["env"], m["step"], m["frame"]["full"]) for m in (first, second)] == [(1, 1, True), (1, 2, False)]
    assert set(second["frame"]["objects"]["ball"]) == {"points"}
    seen = apply(apply(None, first["frame"]), second["frame"])
    assert seen["objects"]["ball"]["points"][0, 0] == 2
    link.send({"watch": [2], "interval": 0.0})
    link.send({"watch": [1], "interval": 0.0})
    assert link.receive(10)["frame"]["full"], "what was left and is wanted again comes whole"
    link.close()
    until(lambda: not views._wishes)


def test_frames_come_at_the_rate_of_the_viewer(served):
    views, server, entry = served
    link, _ = dial(entry.socket, entry.token)
    link.send({"watch": [0], "interval": 0.05})
    until(lambda: views.attention)
    begun, number, found = time.monotonic(), 0, []
    while len(found) < 5:
        put(views, server, 0, shot(number := number + 1))
        if (message := link.receive(0.002)) is not None:
            found.append(message)
        assert time.monotonic() < begun + PATIENCE
    assert time.monotonic() > begun + 4 * 0.045
    assert sum(m.get("left_out", 0) for m in found) == found[-1]["step"] - found[0]["step"] - len(found) + 1
    link.close()


def test_a_viewer_that_reads_nothing_waits_alone_and_gets_the_latest(served):
    views, server, entry = served
    stuck, _ = dial(entry.socket, entry.token)
    quick, _ = dial(entry.socket, entry.token)
    for link in (stuck, quick):
        link.send({"watch": [0], "interval": 0.0})
    until(lambda: len(views._wishes) == 2)
    for number in range(1, 15):
        put(views, server, 0, shot(number, size=20_000))  # 480 kB: more than a socket holds
        message = quick.receive(10)
        while message["step"] != number:
            message = quick.receive(10)
    steps = [stuck.receive(PATIENCE)["step"]]
    while steps[-1] != 14:
        steps.append(stuck.receive(PATIENCE)["step"])
    assert len(steps) < 6
    stuck.close()
    quick.close()


def test_a_viewer_that_was_started_with_the_run_may_pause_it_until_it_ends(served):
    views, server, _ = served
    link, words = adopted(server)
    assert words["control"]
    assert not server.watching
    link.send({"watch": [0], "interval": 0.0})
    until(lambda: server.watching)
    link.send({"do": "pause"})
    assert link.receive(10) == {"paused": True}
    link.send({"do": "resume"})
    assert link.receive(10) == {"paused": False}
    link.send({"do": "step"})
    assert link.receive(10) == {"paused": True}
    link.close()
    until(lambda: not views.paused)


GARBAGE = [
    [0, "push", 99.0],
    [0, "push", float("nan")],
    [0, "push", "much"],
    [0, "push", [[1.0]]],
    [0, "stop", False],
    [0, "tip", [9.0, 0.0, 0.0]],
    [0, "tip", [1.0]],
    [0, "unknown", 1.0],
    [7, "push", 1.0],
    [-1, "push", 1.0],
    [0.5, "push", 1.0],
    [0, 5, 1.0],
]


def with_inputs(views):
    scene = SceneInputs()
    scene.slider("push", -2.0, 2.0)
    scene.button("stop")
    scene.pull("tip", [0.0, 0.0, 0.0], reach=2.0)
    views.accept(scene.inputs)


def test_of_each_input_the_last_value_is_kept_and_what_is_none_is_said_once(served):
    views, server, _ = served
    with_inputs(views)
    link, words = adopted(server)
    assert words["inputs"]
    for number in range(3000):
        link.send({"input": [number % 4, "push", number % 7 / 7]})
    for given in ([1, "stop", True], [1, "stop", True], [2, "tip", [0.5, 0.0, 0.0]], *GARBAGE):
        link.send({"input": given})
    link.send({"do": "step"})
    assert link.receive(10) == {"paused": True}
    taken = []
    with pytest.warns(RuntimeWarning, match="an input of the viewer is left out: the slider 'push' goes from") as said:
        views.attend(lambda wanted: None, lambda: True, taken.extend)
    assert len(said) == 1
    assert [one[:2] for one in taken[:4]] == [(0, "push"), (1, "push"), (2, "push"), (3, "push")]
    assert taken[3:] == [(3, "push", 2999 % 7 / 7), (1, "stop", True), (2, "tip", [0.5, 0.0, 0.0])]
    views.attend(lambda wanted: None, lambda: True, taken.extend)
    assert len(taken) == 6
    views.renew()  # a worker was started anew: it gets what the sliders say
    views.attend(lambda wanted: None, lambda: True, taken.extend)
    assert [one[:2] for one in taken[6:]] == [(0, "push"), (1, "push"), (2, "push"), (3, "push"), (2, "tip")]
    link.close()


def test_who_watches_gives_no_inputs(served):
    views, _, entry = served
    with_inputs(views)
    link, words = dial(entry.socket, entry.token)
    assert not words["inputs"]
    link.send({"input": [0, "push", 1.0]})
    with pytest.raises(EOFError):
        link.receive(10)
    assert not views.inputs
    link.close()


def test_a_viewer_that_goes_lets_go_of_what_springs_back(served):
    views, server, _ = served
    scene = SceneInputs()
    scene.slider("steering", -1.0, 1.0, keys=("Left", "Right"), springs=True)
    scene.slider("push", -1.0, 1.0)
    scene.pull("tip", [0.0, 0.0], reach=1.0)
    views.accept(scene.inputs)
    link, _ = adopted(server)
    link.send({"watch": [0], "interval": 0.0})
    for given in ([0, "steering", 1.0], [0, "push", 0.5], [0, "tip", [1.0, 0.0, 0.0]]):
        link.send({"input": given})
    until(lambda: len(views.inputs.waiting) == 3)
    views.attend(lambda wanted: None, lambda: True)
    assert not views.viewer_gone
    link.close()
    until(lambda: views.viewer_gone)
    taken = []
    with pytest.warns(RuntimeWarning, match="the viewer of this run was killed or has failed; the run continues"):
        views.attend(lambda wanted: None, lambda: True, taken.extend)
    assert taken == [(0, "steering", 0.0), (0, "tip", [0.0, 0.0, 0.0])]
    assert not views.attention


def test_a_window_that_a_person_closes_is_no_fault(served):
    views, server, _ = served
    link, _ = adopted(server)
    link.send({"watch": [0], "interval": 0.0})
    until(lambda: server.watching)
    link.send({"do": "leave"})
    link.close()
    until(lambda: views.viewer_gone)
    views.attend(lambda wanted: None, lambda: True)  # a warning would be an error


def test_a_run_that_takes_no_inputs_is_given_none(served):
    views, server, _ = served
    link, words = adopted(server)
    assert not words["inputs"]
    link.send({"input": [0, "push", 1.0]})
    with pytest.raises(EOFError):
        link.receive(10)
    assert not views.attention
    link.close()


def test_viewers_hear_of_the_end(served):
    views, server, _ = served
    link, _ = adopted(server)
    views.close()
    assert link.receive(10) == {"end": True}
    with pytest.raises(EOFError):
        link.receive(10)
    link.close()


def test_the_number_of_viewers_is_bounded(served, monkeypatch):
    _, _, entry = served
    monkeypatch.setattr(serving, "MOST", 2)
    links = [dial(entry.socket, entry.token)[0] for _ in range(2)]
    with pytest.raises(ConfigError, match="has hung up"):
        dial(entry.socket, entry.token)
    for link in links:
        link.close()


def test_who_says_nothing_is_sent_away(served, monkeypatch):
    monkeypatch.setattr(serving, "GREETING", 0.05)
    monkeypatch.setattr(serving, "LOOK", 0.02)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(served[2].socket)
        stranger.settimeout(10)
        while stranger.recv(4096):
            pass


def test_messages_come_in_pieces_of_any_size():
    data = packed({"a": 1}) + packed({"b": np.arange(3)})
    received, found = Received(1 << 10), []
    for byte in data:
        received.add(bytes([byte]))
        while (message := received.next()) is not None:
            found.append(message)
    assert [list(message) for message in found] == [["a"], ["b"]]
    received.add(wire.LENGTH.pack((1 << 10) + 1))
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        received.next()


@pytest.mark.parametrize("message", STRANGE, ids=str)
def test_who_says_something_strange_is_sent_away_alone(served, message):
    _, _, entry = served
    strange, _ = dial(entry.socket, entry.token)
    strange.send(message)
    with pytest.raises(EOFError):
        strange.receive(10)
    link, _ = dial(entry.socket, entry.token)  # others are served all the same
    link.close()
    strange.close()


@pytest.mark.parametrize("interval", [float("inf"), float("nan"), 1e300, -1.0])
def test_no_rate_of_a_viewer_is_one_that_workers_refuse(served, interval):
    views, _, entry = served
    link, _ = dial(entry.socket, entry.token)
    link.send({"watch": [0], "interval": interval})
    until(lambda: views.attention)
    told = []
    views.attend(told.append, lambda: False)
    assert 0 < told[0][0] <= 3600
    link.close()


def test_a_frame_that_is_none_ends_no_thread(served):
    views, server, entry = served
    link, _ = dial(entry.socket, entry.token)
    link.send({"watch": [0], "interval": 0.0})
    until(lambda: views.attention)
    put(views, server, 0, shot(1))
    assert link.receive(10)["frame"]["full"]
    strange = {"title": "", "camera": {}, "objects": {"ball": {"points": 5}}}
    put(views, server, 0, Shot(2, 1, 2, strange, 0))
    with pytest.raises(EOFError):
        link.receive(10)
    again, _ = dial(entry.socket, entry.token)
    again.close()
    link.close()


def test_a_run_whose_title_is_no_text_is_watched(tmp_path):
    entry = new_entry("t", [tmp_path])
    views = SceneViews(1)
    ViewServer(views, "replay of data\udcff", entry)
    try:
        link, words = dial(entry.socket, entry.token)
        assert words["title"] == "replay of data\\udcff"
        link.close()
    finally:
        views.close()
