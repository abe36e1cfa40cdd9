"""Links, machines and people that go wrong: each is said, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

import physgym
from physgym import SampleDataset, SocketVectorEnv
from physgym.errors import DatasetError, ProtocolError
from physgym.generation.stream import SampleStream
from physgym.machines.address import CALLER
from physgym.protocol.messages import Hello, Role, Rollout, Welcome
from physgym.testing.transports import in_thread
from physgym.transport.auth import challenge, greet, proof
from physgym.transport.base import PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.vector.make import env_factory
from tests.machines.test_reception import soon
from tests.support.crowd import Member, members
from tests.support.machines import TOKEN, digests, listening, offers, settings_for
from tests.support.relay import Relay
from tests.support.tls import tls_pair
from tests.support.watching import Attach, until

SPRING, SIZED, DRAWN = "physgym/Spring-v0", "tests.machines.test_faults:Sized", "tests.support.watching:Drawn"
SCALED = "tests.machines.test_faults:Scaled"
again = pytest.mark.filterwarnings("ignore:.*Others run its episodes again:RuntimeWarning")


class Sized(gym.Env):
    """An environment whose samples have a size that its argument says."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    sample_roles = {"x": "input"}  # noqa: RUF012

    def __init__(self, size=3):
        self.sample_space = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (size,), np.float32)})
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        x = self.np_random.uniform(-1, 1, self.size).astype(np.float32)
        return np.zeros(2, np.float32), 0.0, False, self.count == 9, {"sample": {"x": x}}


def generated(folder, env=SPRING, samples=250, **options):
    physgym.generate(env, folder, samples=samples, seed=3, actions="uniform", progress=False, **options)
    return digests(folder)


# --- proofs and handshakes


class Keeping(SocketChannel):
    """A worker's end that keeps what it says."""

    kept = None

    def send(self, message):
        self.kept = message
        super().send(message)


def plain_end(reception, kind=SocketChannel):
    channel = kind(socket.create_connection(tuple(reception.address), 10), Role.WORKER)
    channel.set_timeout(10)
    return channel


def test_a_proof_that_was_heard_serves_nobody_else(tmp_path):
    with listening(tmp_path, plain=True) as reception:
        first, second = plain_end(reception, Keeping), plain_end(reception)
        greet(first, TOKEN, CALLER, 1)
        heard = first.kept
        assert isinstance(heard, Hello)
        second.next()
        second.send(heard)
        with pytest.raises(PeerGone):
            second.next()
        assert "does not know the token" in soon(reception.news)[0]
        first.close()
        second.close()


def test_a_parent_that_repeats_a_welcome_is_left(tmp_path):
    ours, theirs = socket.socketpair()
    parent, worker = SocketChannel(ours, Role.PARENT), SocketChannel(theirs, Role.WORKER)
    worker.set_timeout(10)
    challenge(parent)
    greeted = in_thread(greet, worker, TOKEN, CALLER, 1)
    soon(parent.receive)
    parent.send(Welcome(proof(TOKEN, Role.PARENT, bytes(32), CALLER)))  # that of another nonce, as it was heard
    with pytest.raises(ProtocolError, match="does not know this worker's token"):
        greeted()
    parent.close()
    worker.close()


def test_a_slow_handshake_keeps_nobody_waiting(tmp_path):
    with listening(tmp_path) as reception, Relay(tuple(reception.address), rate=4000.0) as relay:
        slow = in_thread(Member, settings_for(reception, tmp_path, address=relay.address))
        soon(lambda: reception._callers)
        quick = Member(settings_for(reception, tmp_path))
        assert reception.first(60) == 1
        here = [caller.offer for caller in reception._callers.values()]
        assert here.count(None) == 1  # it is still in its handshake
        late = slow()
        soon(lambda: all(caller.offer is not None for caller in [*reception._callers.values()]))
        quick.channel.close()
        late.channel.close()


def test_a_connection_that_is_gone_before_it_is_taken_stops_nobody(tmp_path, monkeypatch):
    def gone(sock):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with listening(tmp_path) as reception:
        with monkeypatch.context() as patch:
            patch.setattr("physgym.machines.strangers.lasting", gone)
            with socket.create_connection(tuple(reception.address), 10) as other:
                assert other.recv(1) == b""
        member = Member(settings_for(reception, tmp_path))
        assert reception.first(60) == 1
        member.channel.close()


def test_another_version_of_the_protocol_is_named(tmp_path):
    with listening(tmp_path, plain=True) as reception:
        with socket.create_connection(tuple(reception.address), 10) as other:
            opening = other.recv(1 << 12)
            other.sendall(opening[:2] + bytes([opening[2] + 1]) + opening[3:])
            assert other.recv(1) == b""
        assert "peer speaks version" in soon(reception.news)[0]


def test_a_fork_lets_go_of_a_connection_without_a_word():
    """A loader of batches that forks, or an environment that does, would end the connection of the original."""
    parent, worker = tls_pair()
    pid = os.fork()
    if not pid:
        parent.close()
        worker.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    worker.set_timeout(10)
    challenge(parent)
    assert worker.next() is not None
    parent.close()
    worker.close()


# --- environments


@again
@pytest.mark.slow
def test_a_worker_of_other_spaces_does_not_join(tmp_path):
    reference = generated(tmp_path / "here", SIZED, num_workers=0, samples=1000)
    with listening(tmp_path) as reception:
        right, wrong = (settings_for(reception, tmp_path, envs=[SIZED], fixed={"size": size}) for size in (3, 4))
        said = []

        class Patient(Member):
            def answer(self, message):
                if isinstance(message, Rollout):  # else all may be over before the other one has joined
                    until(lambda: said)
                return super().answer(message)

        with members(right, make=Patient):
            reception.first(60)
            with members(wrong):
                soon(lambda: offers(reception) == 2)
                with pytest.warns(RuntimeWarning, match="does not join.*other spaces than those of the others") as said:
                    found = generated(tmp_path / "there", SIZED, launcher=reception, samples=1000)
    assert found == reference


class Scaled(Sized):
    """The same with an argument that no space shows."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor


@again
@pytest.mark.parametrize("scale", [2.0, None])
def test_a_worker_of_other_arguments_does_not_join(tmp_path, scale):
    with listening(tmp_path) as reception:
        right = settings_for(reception, tmp_path, envs=[SCALED], fixed={"factor": 1.0})
        wrong = replace(right, fixed={} if scale is None else {"factor": scale})
        with members(right):
            reception.first(60)
            said = r"does not join.*other arguments \(--arg\) \(.* in place of factor=1.0\) than those of the others"

            def take(stream):
                deadline = time.monotonic() + 60
                while not caught:
                    assert time.monotonic() < deadline
                    stream.take(20)

            with (
                members(wrong),
                SampleStream(SCALED, launcher=reception, timeout=20.0, actions="uniform") as stream,
            ):
                with pytest.warns(RuntimeWarning, match=said) as caught:
                    take(stream)
                assert stream.code.values["--arg factor"] == "1.0"


def test_arguments_that_the_parent_gives_are_not_told_apart(tmp_path):
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[SCALED], fixed={"factor": 2.0})
        options = {"env_kwargs": {"factor": 2.0}, "launcher": reception, "actions": "uniform"}
        with members(settings), SampleStream(SCALED, timeout=20.0, **options) as stream:
            assert "fixed" not in stream.made
            assert not [name for name in stream.code.values if "--arg" in name]


# --- the machine of the run


@pytest.mark.slow
def test_a_disk_that_is_full_keeps_what_there_is_and_the_rest_comes_later(tmp_path, monkeypatch):
    reference = generated(tmp_path / "here", num_workers=0)
    with listening(tmp_path) as reception, members(settings_for(reception, tmp_path)):
        with monkeypatch.context() as patch:
            written = os.pwrite

            def full(descriptor, data, offset):
                if offset > 20_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return written(descriptor, data, offset)

            patch.setattr(os, "pwrite", full)
            with pytest.raises(DatasetError, match="No space left"):
                generated(tmp_path / "there", launcher=reception)
        with contextlib.suppress(DatasetError):  # nothing was complete
            assert len(SampleDataset(tmp_path / "there")) < 250
        assert generated(tmp_path / "there", launcher=reception, resume=True) == reference


# --- viewers


@again
@pytest.mark.slow
def test_frames_of_all_workers_come_to_a_viewer_and_change_no_byte(tmp_path):
    reference = generated(tmp_path / "here", DRAWN, num_workers=0, samples=4000)
    attach = Attach(range(2))
    with listening(tmp_path) as reception:
        settings = settings_for(reception, tmp_path, envs=[DRAWN])
        with members(settings, 2):
            until(lambda: offers(reception) == 2)
            found = generated(tmp_path / "there", DRAWN, launcher=reception, samples=4000, callbacks=[attach])
    assert found == reference
    frames = [message for message in attach.messages if "frame" in message]
    assert {message["env"] for message in frames} >= {0}


def test_frames_of_a_vector_env_come_over_tls(tmp_path):
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path, envs=[DRAWN], count=2), 2),
        SocketVectorEnv([env_factory(DRAWN, {})] * 4, num_workers=2, launcher=reception, timeout=20) as envs,
    ):
        envs.reset(seed=1)
        envs.views.wish(self := object(), range(4), 0.0)
        assert self is not None

        def shown():
            envs.step(np.zeros((4, 1)))
            return set(envs.views.shots) == set(range(4))

        soon(shown)
        assert all(shot.snapshot["objects"].keys() == {"ball", "floor"} for shot in envs.views.shots.values())


# --- many that come and go


@again
@pytest.mark.slow
def test_nothing_grows_while_workers_join_and_leave(tmp_path):
    def leaving(settings):
        member = Member(settings)
        member.left, answer = next(lives), member.answer

        def counted(message):
            member.left -= isinstance(message, Rollout)
            return member.left > 0 and answer(message)

        member.answer = counted
        return member

    lives = itertools.cycle([4, 9, 2, 14])
    with (
        listening(tmp_path) as reception,
        members(settings_for(reception, tmp_path, envs=[SIZED], count=2), 4, leaving),
        SampleStream(SIZED, launcher=reception, timeout=20.0, actions="uniform") as stream,
    ):
        kept = []
        pool, turnover = stream._envs._pool, stream._envs._turnover
        for part in range(1, 5):
            deadline = time.monotonic() + 60
            while turnover._next < 8 * part:
                assert time.monotonic() < deadline, "they do not come and go"
                stream.take(1000)
            kept.append((len(os.listdir("/proc/self/fd")), len(pool.factories), len(pool.workers)))  # noqa: PTH208
    assert kept[-1][0] <= kept[0][0] + 8
    assert max(count for _, count, _ in kept) <= 2 * 8
    assert max(count for *_, count in kept) <= 8
