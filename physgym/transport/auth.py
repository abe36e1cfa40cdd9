"""The proof that both ends of a connection know the token, which itself is never sent."""

from __future__ import annotations

import hmac

from physgym.errors import ProtocolError
from physgym.protocol.messages import Challenge, Hello, Role, Welcome
from physgym.transport.base import Channel


def proof(token: bytes, role: Role, nonce: bytes, worker: int) -> bytes:
    """Return the HMAC-SHA-256 of a nonce, bound to who proves and to the worker's index: it serves nowhere else."""
    return hmac.digest(token, role.value.encode() + worker.to_bytes(8, "little", signed=True) + nonce, "sha256")


def challenge(channel: Channel) -> None:
    """Open the conversation; for the parent."""
    channel.send(Challenge(channel.nonce))


def greet(channel: Channel, token: bytes, worker: int, pid: int) -> None:
    """Prove that this is a worker of the parent, and have the parent prove itself.

    Raises:
        ProtocolError: The parent is another one.
    """
    opening = channel.next()
    assert isinstance(opening, Challenge)
    channel.send(Hello(worker, pid, channel.nonce, proof(token, Role.WORKER, opening.nonce, worker)))
    welcome = channel.next()
    assert isinstance(welcome, Welcome)
    if not hmac.compare_digest(welcome.proof, proof(token, Role.PARENT, channel.nonce, worker)):
        raise ProtocolError("the process at the other end does not know this worker's token")


def admit(channel: Channel, hello: Hello, token: bytes) -> bool:
    """Return whether a greeting proves the token; if so, the worker is welcomed. For the parent."""
    if not -(2**63) <= hello.worker < 2**63:
        return False
    if not hmac.compare_digest(hello.proof, proof(token, Role.WORKER, channel.nonce, hello.worker)):
        return False
    channel.send(Welcome(proof(token, Role.PARENT, hello.nonce, hello.worker)))
    return True
