"""Workers that somebody else starts, and that dial to their parent with a token."""

from __future__ import annotations

import os
import time

import gymnasium as gym
import pytest
from gymnasium.vector import SyncVectorEnv

from physgym import SocketVectorEnv
from physgym.errors import ConfigError, WorkerError
from physgym.testing.launchers import LauncherContract
from tests.support.dialling import DialIn, Ordered, host, started_and_running
from tests.support.vectors import same


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with host(tmp_path_factory.mktemp("orders")) as folder:
        yield folder


class TestDialIn(LauncherContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder):
        self.folder = folder

    def launcher(self):
        return DialIn(self.folder)

    def ended(self, handle):
        return not started_and_running(handle.order)


def cart_pole():
    return gym.make("CartPole-v1")


class Mortal(gym.Env):
    """An environment whose process dies where the action is 1."""

    observation_space = gym.spaces.Discrete(10)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        if action:
            os._exit(3)
        return self.steps, 1.0, False, False, {}


def test_a_vector_env_of_workers_that_dial_equals_the_sync_one(folder):
    reference = SyncVectorEnv([cart_pole] * 4)
    with SocketVectorEnv([cart_pole] * 4, num_workers=2, launcher=DialIn(folder), timeout=60) as ours:
        same(reference.reset(seed=3), ours.reset(seed=3))
        reference.action_space.seed(1)
        for _ in range(40):
            actions = reference.action_space.sample()
            same(reference.step(actions), ours.step(actions))
    reference.close()
    end = time.monotonic() + 30
    while any(started_and_running(file.with_suffix(".order")) for file in folder.glob("*.started")):
        assert time.monotonic() < end, "a worker outlives its parent's connection"
        time.sleep(0.02)


def test_the_end_of_a_worker_elsewhere_is_told_without_its_exit_status(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(Ordered, "poll", lambda handle: asked.append(handle))
    with SocketVectorEnv([Mortal], launcher=DialIn(folder), timeout=60) as envs:
        envs.reset()
        asked.clear()
        with pytest.raises(WorkerError, match=r"^worker 0 \(elsewhere, environment 0\) closed its connection"):
            envs.step([1])
        assert len(asked) < 100, "an exit status was waited for that never comes"
        envs.restart_workers()
        envs.reset()
        assert envs.step([0])[0].tolist() == [1]


def test_a_worker_elsewhere_is_started_again(folder):
    with SocketVectorEnv([Mortal] * 2, num_workers=2, launcher=DialIn(folder), timeout=60, on_error="restart") as envs:
        envs.reset(seed=0)
        infos = envs.step([0, 1])[4]
        assert infos["worker_restarted"].tolist() == [False, True]
        assert envs.step([0, 0])[0].tolist() == [2, 0]
        assert envs.restarts == 1


def test_orders_that_nobody_takes_are_taken_back(tmp_path):
    with pytest.raises(WorkerError, match=r"worker 0 \(elsewhere, environment 0\): not ready after 0.3 s"):
        SocketVectorEnv([Mortal], launcher=DialIn(tmp_path), timeout=0.3)
    assert list(tmp_path.iterdir()) == []


def test_a_transport_that_is_inherited_does_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r'over Unix workers inherit their connection.*such as "tcp"'):
        SocketVectorEnv([Mortal], launcher=DialIn(tmp_path), transport="unix")


def test_each_start_has_a_token_of_its_own(folder, monkeypatch):
    """One that was given up and dials late would take the place of the one that was started instead."""
    tokens = []
    start = DialIn.start
    monkeypatch.setattr(
        DialIn, "start", lambda self, order: tokens.append(order.worker_start.token) or start(self, order)
    )
    with SocketVectorEnv([Mortal], launcher=DialIn(folder), timeout=60, on_error="restart") as envs:
        envs.reset(seed=0)
        envs.step([1])
    assert len({*tokens}) == len(tokens) == 2
