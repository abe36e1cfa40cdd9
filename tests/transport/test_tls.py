"""Channels over TLS, which take no flags and hold decrypted bytes that the descriptor does not show."""

from __future__ import annotations

import shutil

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from physgym import SocketVectorEnv
from physgym.errors import ProtocolError
from physgym.testing.transports import ChannelContract, ListenerContract, arrived, in_thread
from physgym.transport import table
from physgym.transport.auth import challenge, greet
from tests.support.tls import Tls, TlsListener, key_and_certificate, tls_pair
from tests.support.toys import Line
from tests.support.vectors import same

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")


class TestTls(ChannelContract):
    def pair(self):
        return tls_pair()


class TestTlsListener(ListenerContract):
    def listen(self):
        return TlsListener()

    def dial(self, listener):
        return Tls.dial(listener.address, 20)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(table, "TRANSPORTS", dict(table.TRANSPORTS))
    table.register_transport("tls", "tests.support.tls:Tls")


class Picture(gym.Env):
    """An environment whose observations fill many records."""

    observation_space = gym.spaces.Box(0, 1, (300, 300), np.float64)
    action_space = gym.spaces.Box(-1, 1, (100,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random((300, 300)), {"drawn": 1}

    def step(self, action):
        seen = self.np_random.random((300, 300))
        return seen, float(action.sum()), bool(seen[0, 0] < 0.2), False, {"first": seen[0]}


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: gym.make("CartPole-v1"), Picture], ids=["small", "large"])
def test_a_vector_env_over_tls_equals_the_sync_one(make, registered):
    reference = SyncVectorEnv([make] * 4)
    with SocketVectorEnv([make] * 4, num_workers=2, transport="tls", timeout=60) as ours:
        same(reference.reset(seed=7), ours.reset(seed=7))
        reference.action_space.seed(1)
        for _ in range(25):
            actions = reference.action_space.sample()
            same(reference.step(actions), ours.step(actions))
        actions = reference.action_space.sample()
        ours.send(actions)
        assert sorted(ours.recv(4)[5].tolist()) == [0, 1, 2, 3]
    reference.close()


@pytest.mark.slow
def test_episodes_over_tls_give_the_samples_that_they_give_anywhere():
    def samples(transport):
        with SocketVectorEnv([Line] * 2, num_workers=2, transport=transport, timeout=60) as envs:
            episodes = [(episode, 10 + episode) for episode in range(12)]
            parts = [part for _, part in envs.rollout(episodes, max_steps=20, max_rejects=5)]
        rows = [
            (episode, step, *(column[row].tobytes() for column in part.samples.values()))
            for part in parts
            for row, (episode, step) in enumerate(zip(part.episodes.tolist(), part.steps.tolist(), strict=True))
        ]
        return sorted(rows)

    assert samples(Tls()) == samples("unix") != []


def test_a_worker_leaves_a_parent_of_another_certificate():
    listener = TlsListener()
    try:
        *place, _ = listener.address
        worker = Tls.dial([*place, key_and_certificate("another.physgym.test")[1]], 20)
        greeted = in_thread(greet, worker, bytes(32), 0, 1)
        while (parent := listener.accept()) is None:
            pass
        challenge(parent)
        with pytest.raises(ProtocolError):
            arrived(parent)
        with pytest.raises(ProtocolError, match="handshake of TLS failed"):
            greeted()
        parent.close()
        worker.close()
    finally:
        listener.close()
