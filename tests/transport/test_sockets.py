"""Channels over real sockets, and the proof that both ends know the token."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
import threading
import time
from typing import Any

import numpy as np
import pytest

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.messages import (
    Call,
    CallResult,
    Challenge,
    Hello,
    Predict,
    Prediction,
    Results,
    Role,
    Rollout,
    Step,
    Welcome,
)
from physgym.transport import sockets as transport
from physgym.transport.sockets import Channel, Listener, PeerGone, admit, challenge, dial, greet, proof
from tests.support.conversation import BIG, assert_same

TOKEN = bytes(range(32))


class Tap:
    """A socket that keeps what passes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sent = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: Any, flags: int = 0) -> int:
        count = self._sock.send(data, flags)
        self.sent += bytes(data)[:count]
        return count

    def sendmsg(self, parts: Any, ancillary: Any = (), flags: int = 0) -> int:
        count = self._sock.sendmsg(parts, ancillary, flags)
        self.sent += b"".join(map(bytes, parts))[:count]
        return count


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    parent, worker = Channel(ours, Role.PARENT), Channel(theirs, Role.WORKER)
    theirs.settimeout(20)
    yield parent, worker
    parent.close()
    worker.close()


def received(channel: Channel, count: int = 1) -> list[Any]:
    """Messages at the parent's end, which does not block."""
    messages: list[Any] = []
    deadline = time.monotonic() + 20
    while len(messages) < count:
        assert time.monotonic() < deadline
        channel.flush()
        messages += channel.receive()
    return messages


def in_thread(work: Any, *arguments: Any) -> Any:
    """Start work; a function that waits for its result, or raises what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(*arguments), None))
        except Exception as error:  # noqa: BLE001 - raised again where the result is wanted
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(20)
        assert not thread.is_alive()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    return result


def introduced(pair: Any, ready: Any = BIG) -> tuple[Channel, Channel]:
    parent, worker = pair
    challenge(parent)
    greeted = in_thread(greet, worker, TOKEN, 3, 4711)
    assert admit(parent, received(parent)[0], TOKEN)
    greeted()
    worker.send(ready)
    assert_same(received(parent), [ready])
    return parent, worker


# --- proofs


def test_the_proof_is_the_one_that_is_documented():
    message = b"worker" + struct.pack("<q", 3) + b"n" * 32
    assert proof(TOKEN, Role.WORKER, b"n" * 32, 3) == hmac.new(TOKEN, message, hashlib.sha256).digest()


def test_a_proof_holds_for_one_token_role_nonce_and_worker_only():
    nonces = [b"n" * 32, b"n" * 31 + b"m", b"n" * 31, b"n" * 33, b""]
    tokens = [TOKEN, bytes(32), TOKEN[:-1]]
    workers = [0, 1, 2**32, -1, 2**63 - 1]
    proofs = {proof(t, role, n, w) for t in tokens for role in Role for n in nonces for w in workers}
    assert len(proofs) == len(tokens) * 2 * len(nonces) * len(workers)


def hello_to(parent: Channel, **changes: Any) -> Hello:
    """The greeting of worker 3, or one that differs."""
    made = {"token": TOKEN, "role": Role.WORKER, "nonce": parent.nonce, "worker": 3, **changes}
    return Hello(3, 1, b"w" * 32, proof(made["token"], made["role"], made["nonce"], made["worker"]))


@pytest.mark.parametrize(
    ("changes", "admitted"),
    [
        ({}, True),
        ({"token": bytes(32)}, False),
        ({"role": Role.PARENT}, False),
        ({"nonce": b"n" * 32}, False),
        ({"worker": 2}, False),
    ],
)
def test_a_worker_is_admitted_for_its_own_proof_alone(pair, changes, admitted):
    parent, worker = pair
    challenge(parent)
    assert worker.next() == Challenge(parent.nonce)
    worker.send(hello_to(parent, **changes))
    assert admit(parent, received(parent)[0], TOKEN) is admitted
    assert parent.connection.state == ("building" if admitted else "welcome")


@pytest.mark.parametrize("proof_", [b"", b"\x00" * 32, b"x" * 31, b"x" * 500])
def test_any_other_bytes_are_no_proof(pair, proof_):
    parent, worker = pair
    challenge(parent)
    worker.next()
    worker.send(Hello(3, 1, b"w" * 32, proof_))
    assert not admit(parent, received(parent)[0], TOKEN)


@pytest.mark.parametrize("index", [2**63, -(2**63) - 1, 2**200])
def test_an_index_that_is_none_is_no_error(pair, index):
    parent, worker = pair
    challenge(parent)
    worker.next()
    worker.send(Hello(index, 1, b"w" * 32, b"p" * 32))
    with contextlib.suppress(ProtocolError):  # more than 64 bits do not travel in the handshake
        assert not admit(parent, received(parent)[0], TOKEN)


def test_a_greeting_that_was_overheard_opens_no_second_connection():
    overheard: list[Hello] = []
    for turn in range(2):
        ours, theirs = socket.socketpair()
        parent, worker = Channel(ours, Role.PARENT), Channel(theirs, Role.WORKER)
        challenge(parent)
        worker.next()
        overheard.append(hello_to(parent))
        worker.send(overheard[0])
        assert admit(parent, received(parent)[0], TOKEN) is (turn == 0)
        parent.close()
        worker.close()


def test_nonces_are_long_and_never_the_same():
    nonces = set()
    for _ in range(20):
        a, b = socket.socketpair()
        nonces |= {Channel(a, Role.PARENT).nonce, Channel(b, Role.WORKER).nonce}
        a.close()
        b.close()
    assert len(nonces) == 40
    assert {len(nonce) for nonce in nonces} == {32}


@pytest.mark.parametrize(
    "answer",
    [
        lambda hello: b"",
        lambda hello: hello.proof,
        lambda hello: proof(bytes(32), Role.PARENT, hello.nonce, 3),
        lambda hello: proof(TOKEN, Role.WORKER, hello.nonce, 3),
        lambda hello: proof(TOKEN, Role.PARENT, b"n" * 32, 3),
        lambda hello: proof(TOKEN, Role.PARENT, hello.nonce, 2),
    ],
)
def test_a_worker_leaves_a_parent_that_does_not_know_the_token(pair, answer):
    parent, worker = pair
    challenge(parent)
    greeted = in_thread(greet, worker, TOKEN, 3, 4711)
    (hello,) = received(parent)
    parent.send(Welcome(answer(hello)))
    with pytest.raises(ProtocolError, match="does not know this worker's token"):
        greeted()


def test_proofs_are_compared_in_constant_time(pair, monkeypatch):
    compared = []
    original = hmac.compare_digest
    monkeypatch.setattr(transport.hmac, "compare_digest", lambda a, b: compared.append(a) or original(a, b))
    introduced(pair)
    assert len(compared) == 2


def test_the_token_does_not_travel():
    ours, theirs = (Tap(sock) for sock in socket.socketpair())
    parent, worker = introduced((Channel(ours, Role.PARENT), Channel(theirs, Role.WORKER)))
    parent.send(Call("call", "x"))
    worker.next()
    worker.send(CallResult([1, 2]))
    for tap in (ours, theirs):
        assert len(tap.sent) > 50
        for form in (TOKEN, TOKEN.hex().encode(), TOKEN.hex().upper().encode(), TOKEN[::-1]):
            assert form not in tap.sent
            assert form[:8] not in tap.sent
    parent.close()
    worker.close()


# --- channels


def test_large_messages_both_ways_at_once_stop_nobody(pair):
    parent, worker = introduced(pair)
    payload = np.random.default_rng(0).bytes(8 << 20)
    parent.send(Call("call", "x", [payload]))
    assert parent.unsent  # no socket takes so much at once
    parent.send(Call("call", "y", [payload]))

    def serve() -> None:
        for _ in range(2):
            request = worker.next()
            worker.send(CallResult([request.name, request.args[0]]))

    served = in_thread(serve)
    assert [reply.results for reply in received(parent, 2)] == [["x", payload], ["y", payload]]
    served()
    assert not parent.unsent


def test_arrays_may_change_once_they_are_sent(pair):
    parent, worker = introduced(pair)
    observations, rewards, flags = np.ones((2, 180, 180)), np.zeros(2), np.zeros(2, bool)
    for _ in range(2):
        parent.send(Call("call", "x", [bytes(4 << 20)]))
    done = threading.Event()

    def serve() -> None:
        worker.next()
        worker.send(CallResult([observations, 1]))
        worker.next()
        done.set()

    assert parent.unsent
    argument = np.ones(1000)
    parent.send(Call("call", "y", [argument]))
    argument[:] = 5
    served = in_thread(serve)
    received(parent)
    while not done.is_set():
        parent.flush()
    served()
    while parent.unsent:
        parent.flush()
    assert_same(worker.next().args, [np.ones(1000)])
    worker.send(CallResult([1, 2]))
    worker.send(CallResult([1, 2]))
    received(parent, 2)
    for _ in range(12):
        parent.send(Step(0))
        worker.next()
    sender = in_thread(lambda: [worker.send(Results(None, [observations, rewards, flags, flags])) for _ in range(12)])
    for message in received(parent, 12):
        assert_same(message.arrays[0], np.ones((2, 180, 180)))
    sender()


def test_actions_that_wait_at_the_parent_are_copies(pair):
    parent, worker = introduced(pair)
    actions = [np.zeros(2, np.int64)]
    while not parent.unsent:
        parent.send(Call("call", "x", [bytes(1 << 20)]))
    parent.send(Step(0, None, actions))
    actions[0][:] = 1
    took = in_thread(lambda: next(m for m in iter(worker.next, None) if isinstance(m, Step)))
    while parent.unsent:
        parent.flush()
    assert_same(took().actions, [np.zeros(2, np.int64)])


def test_the_parents_end_does_not_block(pair):
    parent, _ = introduced(pair)
    begun = time.monotonic()
    assert parent.receive() == []
    for _ in range(20):
        parent.send(Call("call", "x", [bytes(1 << 20)]))
    parent.flush()
    assert parent.unsent
    assert time.monotonic() - begun < 5


def test_requests_that_come_before_a_prediction_keep_their_order(pair):
    parent, worker = introduced(pair)
    parent.send(Rollout([[0, 0]], 1, 1))
    assert worker.next() == Rollout([[0, 0]], 1, 1)
    worker.send(Predict(0, {}))
    received(parent)
    for name in ("a", "b"):
        parent.send(Call("call", name))
    parent.send(Prediction({"y": 1.0}))
    parent.send(Call("call", "c"))
    assert worker.next_prediction() == Prediction({"y": 1.0})
    assert [worker.next().name for _ in range(3)] == ["a", "b", "c"]


@pytest.mark.parametrize("role", Role)
def test_the_end_of_a_peer_shows(pair, role):
    parent, worker = introduced(pair)
    parent.send(Call("call", "x"))
    worker.next()
    gone, left = (worker, parent) if role is Role.PARENT else (parent, worker)
    gone.close()
    gone.close()
    with pytest.raises(PeerGone, match="the peer closed the connection"):
        left.receive()
    with pytest.raises(PeerGone, match="the peer closed the connection"):
        left.send(Call("call", "x") if role is Role.PARENT else Predict(0, {}))


def test_the_end_of_a_peer_shows_within_a_large_message(pair):
    parent, worker = introduced(pair)
    parent.send(Call("call", "x", [bytes(16 << 20)]))
    worker.receive()
    worker.close()
    with pytest.raises(PeerGone):
        parent.flush()


def test_the_end_of_a_peer_within_a_frame_is_no_message(pair):
    parent, worker = introduced(pair)
    parent.sock.send(b"PG\x02")
    parent.close()
    with pytest.raises(PeerGone):
        worker.next()


def test_silence_ends_a_workers_wait(pair):
    _, worker = pair
    worker.sock.settimeout(0.05)
    with pytest.raises(ProtocolError, match=r"nothing arrived for 0\.05 s"):
        greet(worker, TOKEN, 0, 1)


@pytest.mark.parametrize("message", [Call("call", "x", [object()]), CallResult([1, 2]), Step(0, [5], [np.zeros(2)])])
def test_what_cannot_be_sent_sends_nothing(pair, message):
    parent, worker = introduced(pair)
    with pytest.raises(ProtocolError):
        parent.send(message)
    assert not parent.unsent
    parent.send(Call("call", "y"))
    assert worker.next() == Call("call", "y")


def test_garbage_ends_only_its_own_connection():
    listener = Listener()
    try:
        good, bad = dial(listener.address, 5), socket.create_connection(listener.address, 5)
        first, second = accepted(listener), accepted(listener)
        for channel in (first, second):
            challenge(channel)
        bad.sendall(b"GET / HTTP/1.1\r\n\r\n")
        greeted = in_thread(greet, good, TOKEN, 3, 1)
        assert admit(first, received(first)[0], TOKEN)
        greeted()
        with pytest.raises(ProtocolError, match="not a physgym frame"):
            received(second)
        for end in (good, first, second, bad):
            end.close()
    finally:
        listener.close()


def accepted(listener: Listener) -> Channel:
    deadline = time.monotonic() + 10
    while (channel := listener.accept()) is None:
        assert time.monotonic() < deadline
    return channel


def test_the_listener_is_bound_to_the_loopback_interface_and_does_not_block():
    listener = Listener()
    try:
        assert listener.address[0] == "127.0.0.1"
        assert listener.accept() is None
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{listener.address[1]}: .*Use port=0"):
            Listener(listener.address[1])
    finally:
        listener.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_are_none_are_refused(port):
    with pytest.raises(ConfigError, match="port must be between 0"):
        Listener(port)
