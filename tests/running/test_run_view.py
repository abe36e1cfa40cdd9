"""Runs and replays in this process that are watched: the same steps, with the picture of each."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import physgym
from physgym.events import Callback
from physgym.running.run_view import RunView
from physgym.running.runner import Runner
from physgym.scene.changes import apply
from physgym.viewing.places import find
from physgym.viewing.shown import LiveView
from physgym.viewing.views import SceneViews
from physgym.viewing.wire import dial
from tests.running.test_runner import spring_predictor
from tests.support.watching import PATIENCE, all_of, until

VIEWS: list[SceneViews] = []  # of the runs of a test


@pytest.fixture(autouse=True)
def _kept(monkeypatch):
    original = SceneViews.__init__
    VIEWS.clear()
    monkeypatch.setattr(SceneViews, "__init__", lambda self, count: (VIEWS.append(self), original(self, count))[1])


class Look(Callback):
    """Watches a run from its beginning to its end."""

    def __init__(self, place, *, each=False):
        self.place, self.each, self.steps, self.messages = place, each, [], []

    def prediction_begin(self, runner):
        entry = find(self.place)
        self.link, self.words = dial(entry.socket, entry.token)
        self.link.send({"watch": [0], "interval": 0.0})
        until(lambda: any(one.attention for one in VIEWS))

    def sample_end(self, runner, sample):
        if self.each:  # else nothing may have been drawn where this process is kept waiting
            self.messages += all_of(self.link, 0.02)  # not every step is drawn
        step = runner.last
        self.steps.append((step.episode, step.transition.step, {k: np.array(v) for k, v in sample.items()}))
        time.sleep(0.003)

    def prediction_end(self, runner):
        self.messages = [one for one in (*self.messages, *all_of(self.link)) if "frame" in one]
        self.link.close()


def unwatched(predictor):
    with Runner("physgym/Spring-v0", predictor) as runner:
        return [step.fields for _, step in zip(range(25), runner.steps(), strict=False)]


def test_a_run_that_is_watched_makes_the_same_steps_and_shows_them(tmp_path):
    look, predictor = Look(tmp_path, each=True), spring_predictor()
    with Runner("physgym/Spring-v0", predictor, view=LiveView(places=(tmp_path,))) as runner:
        runner.run(25, callbacks=[look], progress=False)
    for (_, _, seen), made in zip(look.steps, unwatched(predictor), strict=True):
        assert all(np.array_equal(seen[name], made[name]) for name in made)
    assert look.words["environments"] == 1
    named = [(message["episode"], message["step"]) for message in look.messages]
    assert len(named) > 3
    assert set(named) <= {(episode, step) for episode, step, _ in look.steps}
    snapshot = None
    for message in look.messages:
        snapshot = apply(snapshot, message["frame"])
    assert snapshot["objects"]


def test_a_replay_of_stored_samples_is_watched_too(tmp_path):
    data = physgym.generate(
        "physgym/Spring-v0", tmp_path / "d", samples=25, num_envs=1, num_workers=0, progress=False, max_steps=5
    )
    look = Look(tmp_path / "s", each=True)
    (tmp_path / "s").mkdir()
    with Runner(None, spring_predictor(), view=LiveView(places=(tmp_path / "s",))) as runner:
        runner.run(replay=data, callbacks=[look], progress=False)
    named = [(message["episode"], message["step"]) for message in look.messages]
    assert named
    assert set(named) <= {(episode, step) for episode, step, _ in look.steps}


@pytest.mark.slow
def test_a_run_by_workers_is_found_by_its_session(tmp_path):
    look, place = Look(tmp_path), LiveView(places=(tmp_path,))
    with Runner("physgym/Spring-v0", spring_predictor(), view=place, num_workers=1) as runner:
        runner.run(400, callbacks=[look], progress=False)
    assert look.words["title"]
    assert {message["env"] for message in look.messages} <= {0}


def test_who_comes_in_a_pause_sees_the_last_step(tmp_path):
    seen = []

    class Pause(Callback):
        def sample_end(self, runner, sample):
            if runner.last.transition.step != 3 or seen:
                return
            self.views = runner_views[0]
            self.views.control("pause")
            thread = threading.Thread(target=self.watch, daemon=True)
            thread.start()
            self.thread = thread

        def watch(self):
            entry = find(tmp_path)
            link, _ = dial(entry.socket, entry.token)
            link.send({"watch": [0], "interval": 0.0})
            seen.append(link.receive(PATIENCE))
            link.close()
            self.views.control("resume")

    runner_views, original = [], RunView.__init__

    def spy(self, *arguments, **options):
        original(self, *arguments, **options)
        runner_views.append(self.views)

    pause = Pause()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunView, "__init__", spy)
        with Runner("physgym/Spring-v0", spring_predictor(), view=LiveView(places=(tmp_path,))) as runner:
            runner.run(8, callbacks=[pause], progress=False)
    pause.thread.join(60)
    assert (seen[0]["episode"], seen[0]["step"]) == (0, 3)
    assert seen[0]["frame"]["full"]
