"""Whoever has not proved itself gets nothing: no memory, no time, no place."""

from __future__ import annotations

import contextlib
import random
import re
import resource
import socket
import time
from pathlib import Path

import gymnasium as gym
import msgpack
import numpy as np
import pytest
from gymnasium import spaces

from physgym import SocketVectorEnv
from physgym.errors import ProtocolError
from physgym.protocol import codec, messages
from physgym.protocol.agreement import agree
from physgym.protocol.connection import Connection
from physgym.protocol.messages import Role
from physgym.protocol.msgpack_values import encode_value
from physgym.transport import tcp
from physgym.transport.base import Channel
from tests.support.conversation import BIG


class Still(gym.Env):
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(9)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


def frame(code: int, body: bytes) -> bytes:
    return codec.HEADER.pack(codec.MAGIC, codec.VERSION, code, 0, len(body)) + body


def waiting_for_hello() -> Connection:
    parent = Connection(Role.PARENT)
    parent.send(messages.Challenge(bytes(32)))
    return parent


def feed(connection: Connection, data: bytes) -> list:
    connection.get_buffer()[: len(data)] = data
    return connection.buffer_updated(len(data))


def test_the_codes_are_those_of_the_document():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "protocol.md").read_text()
    table = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z]\w+) \| [^|]+ \|", text, re.M)}
    assert table == {kind.__name__: code for kind, code in messages.CODES.items()}
    assert sorted(table.values()) == list(range(26))
    data = b"".join(bytes(part) for part in Connection(Role.PARENT).send(messages.Challenge(bytes(32))))
    assert data[3] == 0


HUGE = spaces.Box(-1.0, 1.0, (1 << 20,), np.float32)
FIELDS = {"worker": 0, "pid": 1, "nonce": bytes(32), "proof": bytes(32)}


@pytest.mark.parametrize(
    "value",
    [HUGE, 2**70, (1, 2), [1], {"a": 1}, 1.5, "text", None, True, np.zeros(3), np.int64(3), 1 + 2j],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", FIELDS)
def test_a_greeting_holds_nothing_but_integers_and_bytes(value, name):
    body = encode_value({**FIELDS, name: value})
    assert len(body) < codec.MAX_BODY_BEFORE_WELCOME
    with pytest.raises(ProtocolError):
        feed(waiting_for_hello(), frame(1, body))


def test_a_greeting_that_is_none_costs_nothing():
    described = {"type": "Box", "shape": [1 << 27], "dtype": "<f4", "low": 0.0, "high": 1.0}
    space = msgpack.ExtType(8, msgpack.packb(described))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for body in (msgpack.packb(space), msgpack.packb({**FIELDS, "nonce": space}), msgpack.packb([space] * 10)):
        with pytest.raises(ProtocolError):
            feed(waiting_for_hello(), frame(1, body))
    assert time.process_time() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_random_greetings_cost_little_and_let_nobody_in():
    rng = random.Random(5)
    good = encode_value(FIELDS)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for turn in range(4000):
        if turn % 2:
            body = rng.randbytes(rng.randrange(codec.MAX_BODY_BEFORE_WELCOME + 1))
        else:
            changed = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            body = bytes(changed)
        messages = []
        with contextlib.suppress(ProtocolError):
            messages = feed(waiting_for_hello(), frame(1, body))
        for hello in messages:
            assert all(type(part) in (int, bytes) for part in (hello.worker, hello.pid, hello.nonce, hello.proof))
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_the_spaces_of_a_message_are_bounded_together():
    described = {"type": "Box", "shape": [1 << 27], "dtype": "<f4", "low": 0.0, "high": 1.0}  # 2^29 bytes
    ready = messages.Ready(5, {**BIG.description, "observation_spaces": [described] * 5})
    with pytest.raises(ProtocolError, match=r"exceed the limit of 2147483648 for all spaces"):
        agree(ready)


def test_many_idle_connections_keep_no_worker_out(monkeypatch):
    strangers: list[socket.socket] = []

    class Listener(tcp.TcpListener):
        def __init__(self, port=0):
            super().__init__(port)
            strangers.extend(socket.create_connection(self.address, 10) for _ in range(177))

    monkeypatch.setattr(tcp, "TcpListener", Listener)
    files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    with SocketVectorEnv([Still] * 2, num_workers=2, timeout=60, transport="tcp", context="fork") as envs:
        envs.reset()
        if files:
            assert len(list(Path("/proc/self/fd").iterdir())) < files + 177 + 20
    for stranger in strangers:
        stranger.close()


def test_a_worker_that_is_turned_away_dials_again(monkeypatch):
    turned = []

    class Listener(tcp.TcpListener):
        def accept(self) -> Channel | None:
            channel = super().accept()
            if channel is not None and len(turned) < 3:
                turned.append(channel)
                channel.close()
                return None
            return channel

    monkeypatch.setattr(tcp, "TcpListener", Listener)
    with SocketVectorEnv([Still], timeout=60, transport="tcp", context="fork") as envs:
        envs.reset()
    assert len(turned) == 3
