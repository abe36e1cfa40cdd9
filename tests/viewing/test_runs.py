"""Runs that are watched: the same samples, the same speed, whatever the viewers do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import cloudpickle
import numpy as np
import pytest

from physgym import SocketVectorEnv
from physgym.data import SampleStream
from physgym.errors import ConfigError
from physgym.generation.generate import generate
from physgym.scene.changes import apply
from physgym.viewing.shown import LiveView, show
from tests.support.processes import commands_of, pids_below
from tests.support.vectors import same
from tests.support.watching import PATIENCE, Attach, Drawn, all_of, until, watching

for module in ("tests.support.watching", __name__):  # which workers need not import
    cloudpickle.register_pickle_by_value(sys.modules[module])


def bytes_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def generated(folder, callbacks=(), samples=60, **options):
    generate(Drawn, folder, samples=samples, num_envs=2, progress=False, callbacks=callbacks, **options)
    return bytes_of(folder)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    return generated(tmp_path_factory.mktemp("unseen") / "data", num_workers=0)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "stuck"])
def test_watching_a_generation_changes_no_byte(tmp_path, unseen, workers, reads):
    attach = Attach(range(2), reads=reads)
    assert generated(tmp_path / "data", [attach], num_workers=workers) == unseen
    assert attach.words["environments"] == 2
    if not reads:
        return
    frames = [message for message in attach.messages if "frame" in message]
    assert frames
    seen = {}
    for message in frames:
        seen[message["env"]] = shown = apply(seen.get(message["env"]), message["frame"])
        assert workers or message["episode"] % 2 == message["env"]
        assert set(shown["objects"]) == {"ball", "floor"}
    assert attach.messages[-1] in ({"end": True}, frames[-1])


def test_the_picture_is_that_of_the_step_it_names(tmp_path):
    attach = Attach([1])
    generate(Drawn, tmp_path / "d", samples=60, num_envs=2, num_workers=0, progress=False, callbacks=[attach])
    from physgym.data import SampleDataset

    dataset, seen = SampleDataset(tmp_path / "d"), None
    for message in (one for one in attach.messages if "frame" in one):
        seen = apply(seen, message["frame"])
        row = np.flatnonzero(
            (dataset.index("episode") == message["episode"]) & (dataset.index("step") == message["step"])
        )
        np.testing.assert_allclose(seen["objects"]["ball"]["points"][0], dataset[int(row[0])]["x"], rtol=1e-6)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_vector_env_that_is_watched_gives_the_same(tmp_path, workers):
    with (
        SocketVectorEnv([lambda: Drawn(7)] * 3, num_workers=workers) as seen,
        SocketVectorEnv([lambda: Drawn(7)] * 3, num_workers=0) as unseen,
    ):
        show(seen.views, LiveView(places=(tmp_path,)), "test")
        same(seen.reset(seed=3), unseen.reset(seed=3))
        with watching(tmp_path, [0, 2]) as (link, _):
            until(lambda: seen.views.attention)
            messages, deadline = [], time.monotonic() + PATIENCE
            while len(messages) <= 5 or {message["env"] for message in messages} != {0, 2}:
                assert time.monotonic() < deadline
                same(seen.step(np.zeros((3, 1), np.float32)), unseen.step(np.zeros((3, 1), np.float32)))
                messages += all_of(link, 0.01)  # not every step is drawn
        until(lambda: seen.views.attention)
        seen.step(np.zeros((3, 1)))
        until(lambda: not seen.views._wishes)
        drawn = seen.call("drawn")
        for _ in range(3):
            seen.step(np.zeros((3, 1)))
        assert seen.call("drawn") == drawn, "nobody looks any more"
        assert drawn[1] == 0


class Large(Drawn):
    """Draws more than a socket takes at once."""

    def update_scene(self, scene):
        self.ball.update(points=np.tile(self.place, (60_000, 1)))


@pytest.mark.slow
def test_frames_that_no_socket_takes_at_once_come_whole_between_steps(tmp_path):
    with SocketVectorEnv([Large] * 2, num_workers=1) as envs:
        show(envs.views, LiveView(places=(tmp_path,)), "test")
        envs.reset(seed=3)
        with watching(tmp_path, [0, 1]) as (link, _):
            until(lambda: envs.views.attention)
            begun = time.monotonic()
            while len(envs.views.shots) < 2 or min(shot.number for shot in envs.views.shots.values()) < 3:
                assert time.monotonic() < begun + 60
                envs.step(np.zeros((2, 1)))
            seen = {}
            while len(seen) < 2:
                message = link.receive(20)
                seen[message["env"]] = shown = apply(seen.get(message["env"]), message["frame"])
                points = shown["objects"]["ball"]["points"]
                assert points.shape == (60_000, 3)
                assert (points == points[0]).all()


def test_an_environment_without_a_picture_runs_on(tmp_path):
    with SocketVectorEnv([lambda: Drawn(fails=True)], num_workers=0) as envs:
        show(envs.views, LiveView(places=(tmp_path,)), "test")
        envs.reset(seed=0)
        with watching(tmp_path) as (link, _):
            until(lambda: envs.views.attention)
            envs.step(np.zeros((1, 1)))
            time.sleep(0.02)
            with pytest.warns(RuntimeWarning, match="environment 0 has no picture: SceneError: .*no picture today"):
                envs.step(np.zeros((1, 1)))
            time.sleep(0.02)
            envs.step(np.zeros((1, 1)))
            while not (message := link.receive(PATIENCE)).get("error"):
                pass
            assert "no picture today" in message["error"]


def test_a_stream_that_nobody_can_watch_has_no_thread(tmp_path):
    def served():
        return [thread for thread in threading.enumerate() if thread.name == "physgym-viewers"]

    with SampleStream(Drawn, num_envs=1, num_workers=0) as stream:
        stream.take(1)
        assert not served()
    with SampleStream(Drawn, path=tmp_path / "d", num_envs=1, num_workers=0) as stream:
        stream.take(1)
        assert served()
    assert not served()


def test_an_unknown_view_is_refused_before_anything_begins(tmp_path):
    with pytest.raises(ConfigError, match="view must be one of"):
        generate(Drawn, tmp_path / "d", samples=2, view="cinema", num_workers=0, progress=False)
    assert not (tmp_path / "d").exists()


def test_a_run_goes_on_where_its_viewer_has_no_place(tmp_path, monkeypatch):
    from physgym.viewing import places

    monkeypatch.setattr(places.tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(places, "SHORT", tmp_path / "missing")
    with pytest.warns(RuntimeWarning, match="nobody can watch this run"):
        generate(Drawn, tmp_path / "d", samples=2, num_envs=1, num_workers=0, progress=False)


def viewers():
    return [pid for pid in pids_below(os.getpid()) if "physgym.scene.viewer" in str(commands_of({pid}))]


class Treat:
    """Does something to the viewer of a generation, once it is there."""

    def __init__(self, treat, *, killed=False):
        from physgym.events import Callback

        class Treatment(Callback):
            def data_generation_begin(self, stream):
                self.pids = viewers()
                treat(self.pids[0])
                if killed:
                    until(lambda: stream._envs.views.viewer_gone)

        self.callback = Treatment()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("number", [0, signal.SIGSTOP, signal.SIGKILL], ids=["shown", "stopped", "killed"])
def test_a_viewer_that_is_stopped_or_killed_changes_no_byte(tmp_path, unseen, number):
    begun, killed = time.monotonic(), number == signal.SIGKILL
    treated = Treat(lambda pid: os.kill(pid, number), killed=killed)
    with pytest.warns(RuntimeWarning, match="was killed or has failed") if killed else contextlib.nullcontext() as said:
        assert generated(tmp_path / "data", [treated.callback], num_workers=0, view="count") == unseen
    assert not killed or len(said) == 1
    assert len(treated.callback.pids) == 1
    assert not viewers()
    assert time.monotonic() - begun < 40


@pytest.mark.slow
@pytest.mark.alone
def test_a_viewer_that_does_not_open_ends_no_run(tmp_path, unseen, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.warns(RuntimeWarning, match="the viewer has ended; the run continues without it"):
        assert generated(tmp_path / "data", num_workers=0, view="count") == unseen


def test_a_pause_changes_no_byte(tmp_path, unseen):
    from physgym.events import Callback

    class Pause(Callback):
        def data_generation_batch_end(self, stream, samples):
            if not hasattr(self, "timer"):
                stream._envs.views.control("pause")
                self.timer = threading.Timer(0.2, stream._envs.views.control, ["resume"])
                self.timer.start()
                self.begun = time.monotonic()

        def data_generation_end(self, stream):
            self.took = time.monotonic() - self.begun

    pause = Pause()
    assert generated(tmp_path / "data", [pause], num_workers=0) == unseen
    assert pause.took > 0.15
