"""What tests of viewers share."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from physgym.events import Callback
from physgym.viewing.places import find
from physgym.viewing.wire import Link, dial

PATIENCE = 60.0  # seconds, of a machine that others use too


class Drawn(gym.Env):
    """Counts its steps, and draws a mesh that its code moves; its samples depend on the seed."""

    observation_space = spaces.Box(-1e9, 1e9, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float64)
    sample_space = spaces.Dict({"x": spaces.Box(-1e9, 1e9, (3,), np.float64)})
    sample_roles = {"x": "input"}  # noqa: RUF012 - as a simulation declares them

    def __init__(self, length=20, fails=False):
        self.length, self.fails, self.drawn = length, fails, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.place = 0, np.zeros(3)
        return np.zeros(1), {}

    def step(self, action):
        self.count += 1
        self.place = self.np_random.normal(size=3)
        observation = np.array([self.place.sum()])
        return observation, 0.0, False, self.count >= self.length, {"sample": {"x": self.place.copy()}}

    def scene(self, scene):
        self.ball = scene.points("ball")
        corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        scene.mesh("floor", corners, np.array([[0, 1, 2]]), cell="triangle", fixed=True)

    def update_scene(self, scene):
        self.drawn += 1
        if self.fails and self.drawn > 1:
            raise ValueError("no picture today")
        self.ball.update(points=self.place[None])


def until(condition, text="nothing happened"):
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, text
        time.sleep(0.005)


def all_of(link, seconds=0.2):
    """Return the messages that come, until none does for some time, or the end."""
    found = []
    try:
        while (message := link.receive(seconds)) is not None:
            found.append(message)
    except EOFError:
        pass
    return found


@contextmanager
def watching(place, envs=(0,), interval=0.0):
    """Watch what runs in a folder; gives the link and the first words."""
    entry = find(place)
    link, words = dial(entry.socket, entry.token)
    try:
        link.send({"watch": list(envs), "interval": interval})
        yield link, words
    finally:
        link.close()


class Attach(Callback):
    """Watches a generation from its beginning, without reading until its end."""

    def __init__(self, envs=(0,), *, reads=True):
        self.envs, self.reads, self.messages = envs, reads, []

    def data_generation_begin(self, stream):
        entry = find(stream.writer.path)
        self.link, self.words = dial(entry.socket, entry.token)
        self.link.send({"watch": list(self.envs), "interval": 0.0})
        until(lambda: stream._envs.views.attention)

    def data_generation_end(self, stream):
        if self.reads:
            self.messages = all_of(self.link)
        self.link.close()


class OnceStored(Callback):
    """Does something once when so many samples are stored."""

    def __init__(self, samples, what):
        self.samples, self.what, self.done = samples, what, False

    def data_generation_batch_end(self, stream, samples):
        if not self.done and stream.stored >= self.samples:
            self.done = True
            self.what()


class Person(Callback):
    """Gives inputs to a run as the viewer that was started with it, each after the step that was made so far.

    Args:
        monkeypatch: Puts this in the place of a viewer's process.
        given: By number of the step what is given before the next one: lists of environment, name and value.
    """

    def __init__(self, monkeypatch, given):
        from physgym.viewing import shown

        self.given, self.steps, self.link = given, 0, None
        monkeypatch.setattr(shown, "_open", self._open)

    def _open(self, views, server, sink):
        ours, theirs = socket.socketpair()
        server.adopt(ours)
        self.views, self.link = views, Link(theirs)
        self.words = self.link.receive(PATIENCE)

    def sample_end(self, runner, sample):
        self.steps += 1
        for env, name, value in self.given.get(self.steps, ()):
            self.link.send({"input": [env, name, value]})
            until(lambda: self.views.inputs.waiting.get((env, name)) == value)  # noqa: B023 - waited for here

    def prediction_end(self, runner):
        self.link.close()
