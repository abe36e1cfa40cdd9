"""The proof that both ends know the token."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import struct
from typing import Any

import pytest

from physgym.errors import ProtocolError
from physgym.protocol.messages import Call, CallResult, Challenge, Hello, Role, Welcome
from physgym.testing.transports import arrived, in_thread, introduced
from physgym.transport import auth
from physgym.transport.auth import admit, challenge, greet, proof
from physgym.transport.base import Channel
from physgym.transport.memory import memory_pair
from physgym.transport.sockets import SocketChannel

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
    parent, worker = memory_pair()
    worker.set_timeout(20)
    yield parent, worker
    parent.close()
    worker.close()


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
    assert admit(parent, arrived(parent)[0], TOKEN) is admitted
    assert parent.connection.state == ("building" if admitted else "welcome")


@pytest.mark.parametrize("proof_", [b"", b"\x00" * 32, b"x" * 31, b"x" * 500])
def test_any_other_bytes_are_no_proof(pair, proof_):
    parent, worker = pair
    challenge(parent)
    worker.next()
    worker.send(Hello(3, 1, b"w" * 32, proof_))
    assert not admit(parent, arrived(parent)[0], TOKEN)


@pytest.mark.parametrize("index", [2**63, -(2**63) - 1, 2**200])
def test_an_index_that_is_none_is_no_error(pair, index):
    parent, worker = pair
    challenge(parent)
    worker.next()
    worker.send(Hello(index, 1, b"w" * 32, b"p" * 32))
    with contextlib.suppress(ProtocolError):  # more than 64 bits do not travel in the handshake
        assert not admit(parent, arrived(parent)[0], TOKEN)


def test_a_greeting_that_was_overheard_opens_no_second_connection():
    overheard: list[Hello] = []
    for turn in range(2):
        parent, worker = memory_pair()
        challenge(parent)
        worker.next()
        overheard.append(hello_to(parent))
        worker.send(overheard[0])
        assert admit(parent, arrived(parent)[0], TOKEN) is (turn == 0)
        parent.close()
        worker.close()


def test_nonces_are_long_and_never_the_same():
    nonces = set()
    for _ in range(20):
        for end in memory_pair():
            nonces.add(end.nonce)
            end.close()
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
    (hello,) = arrived(parent)
    parent.send(Welcome(answer(hello)))
    with pytest.raises(ProtocolError, match="does not know this worker's token"):
        greeted()


def test_proofs_are_compared_in_constant_time(pair, monkeypatch):
    compared = []
    original = hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(a) or original(a, b))
    introduced(*pair)
    assert len(compared) == 2


def test_the_token_does_not_travel():
    ours, theirs = (Tap(sock) for sock in socket.socketpair())
    parent, worker = SocketChannel(ours, Role.PARENT), SocketChannel(theirs, Role.WORKER)
    introduced(parent, worker)
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
