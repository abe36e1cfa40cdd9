"""Moves messages over sockets: one `Channel` per connection, a listener in the parent, a dialler in the worker.

The parent's end never blocks: what the kernel does not take at once waits in the channel, so that a worker
that writes while it is written to cannot stop both. The worker's end blocks.
"""

from __future__ import annotations

import hmac
import secrets
import select
import socket
import time
from collections import deque

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.connection import Connection
from physgym.protocol.messages import Challenge, Close, Hello, Message, Prediction, Role, Welcome
from physgym.system.descriptors import STANDARD, above_standard

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait in the kernel: workers are not to wait behind those who say nothing
REDIAL = 0.05  # seconds until a worker that was turned away dials again
SOCKET_BUFFER = 1 << 20  # samples of a rollout pass with few switches between the processes


class PeerGone(ProtocolError):
    """The other end closed the connection or died."""


class Channel:
    """A connection over a socket.

    Args:
        sock: A connected stream socket; the channel owns it.
        role: Which end this is.

    Attributes:
        nonce: What the peer's proof has to answer; None before the challenge.
    """

    def __init__(self, sock: socket.socket, role: Role) -> None:
        self.sock = sock = above(sock)
        self.connection = Connection(role)
        self.nonce = secrets.token_bytes(32)
        self._inbox: deque[Message] = deque()
        self._outbox: deque[memoryview] = deque()
        sock.setblocking(True)
        self._flags = 0 if role is Role.WORKER else socket.MSG_DONTWAIT
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.sock.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for the socket to take it."""
        return bool(self._outbox)

    def send(self, message: Message) -> None:
        """Send a message; at the parent's end what the kernel does not take at once is left to `flush`.

        Raises:
            ProtocolError: It is not legal now, or holds what cannot travel; nothing was sent then.
            PeerGone: The peer closed the connection.
        """
        parts = self.connection.send(message)
        if len(parts) <= 2 and not self._outbox:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            try:
                sent = self.sock.send(data, self._flags)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise _gone(error) from error
            if sent == len(data):
                return
            self._outbox.append(memoryview(data)[sent:])
        else:
            self._outbox.extend(view for part in parts if len(view := memoryview(part).cast("B")))
        self.flush()
        # what the caller's arrays hold may change before it is sent
        self._outbox = deque(part if type(part.obj) is bytes else memoryview(bytes(part)) for part in self._outbox)

    def flush(self) -> None:
        """Send what waits, as far as the kernel takes it.

        Raises:
            PeerGone: The peer closed the connection.
        """
        while self._outbox:
            try:
                sent = self.sock.sendmsg(list(self._outbox)[:64], [], self._flags)
            except BlockingIOError:
                return
            except OSError as error:
                raise _gone(error) from error
            while sent:
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                    break
                sent -= len(self._outbox.popleft())

    def receive(self) -> list[Message]:
        """Take what the socket has; the messages that it completes. Blocks at the worker's end if there is nothing.

        Raises:
            ProtocolError: What arrived is not a legal frame.
            PeerGone: The peer closed the connection.
        """
        try:
            count = self.sock.recv_into(self.connection.get_buffer(), 0, self._flags)
        except BlockingIOError:
            return []
        except TimeoutError as error:
            raise ProtocolError(f"nothing arrived for {self.sock.gettimeout()} s") from error
        except OSError as error:
            raise _gone(error) from error
        if count == 0:
            raise PeerGone("the peer closed the connection")
        return self.connection.buffer_updated(count)

    def next(self) -> Message:
        """The next message; for the worker's end, which blocks. Raises as `receive` does."""
        while not self._inbox:
            self._inbox.extend(self.receive())
        return self._inbox.popleft()

    def next_prediction(self) -> Prediction:
        """The answer to a `Predict`; requests that come before it keep their order for `next`."""
        waiting: list[Message] = []
        while not isinstance(message := self.next(), Prediction):
            waiting.append(message)
        self._inbox.extendleft(reversed(waiting))
        return message

    def asked_to_close(self) -> bool:
        """Whether `Close` is among the requests that wait; for the worker's end. Raises as `receive` does."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while poll.poll(0):
            self._inbox.extend(self.receive())
        return any(isinstance(message, Close) for message in self._inbox)

    def close(self) -> None:
        """Close the socket; calling it again does no harm."""
        self.sock.close()


def above(sock: socket.socket) -> socket.socket:
    """Return a socket whose descriptor is none of the standard ones; one whose is, is closed."""
    if sock.fileno() not in STANDARD:
        return sock
    return socket.socket(fileno=above_standard(sock.detach()))


def _gone(error: OSError) -> PeerGone:
    return PeerGone(f"the peer closed the connection ({error})")


class Listener:
    """The parent's socket to which workers connect, on the loopback interface.

    Args:
        port: TCP port; 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"port must be between 0 (any free one) and 65535, not {port}")
        try:
            self.sock = above(socket.create_server((LOOPBACK, port), backlog=BACKLOG))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror}. Use port=0 for a free one"
            ) from error
        self.sock.setblocking(False)
        self.address: tuple[str, int] = self.sock.getsockname()[:2]

    def accept(self) -> Channel | None:
        """The next connection as a channel, None if there is none after all, or no descriptor for it."""
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return None
        return Channel(sock, Role.PARENT)

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def dial(address: tuple[str, int], timeout: float) -> Channel:
    """Connect to a parent."""
    return Channel(socket.create_connection(address, timeout), Role.WORKER)


def join(address: tuple[str, int], timeout: float, token: bytes, worker: int, pid: int) -> Channel:
    """Connect to a parent and shake hands; where it was crowded by others, again and again.

    Args:
        address: Of the parent.
        timeout: Seconds for it.
        token: The secret.
        worker: Index of this worker.
        pid: Its process.

    Raises:
        ProtocolError: The parent is another one.
        PeerGone: It turns this worker away.
        OSError: Nobody listens.
    """
    deadline = time.monotonic() + timeout
    while True:
        channel = dial(address, max(REDIAL, deadline - time.monotonic()))
        try:
            greet(channel, token, worker, pid)
            return channel
        except PeerGone:
            channel.close()
            if time.monotonic() >= deadline:
                raise
        except BaseException:
            channel.close()
            raise
        time.sleep(REDIAL)


# --- proof that both ends know the token, which itself never travels


def proof(token: bytes, role: Role, nonce: bytes, worker: int) -> bytes:
    """HMAC-SHA-256 of a nonce, bound to who proves and to the worker's index, so that it serves nowhere else."""
    return hmac.digest(token, role.value.encode() + worker.to_bytes(8, "little", signed=True) + nonce, "sha256")


def challenge(channel: Channel) -> None:
    """Parent: open the conversation."""
    channel.send(Challenge(channel.nonce))


def greet(channel: Channel, token: bytes, worker: int, pid: int) -> None:
    """Worker: prove itself, and have the parent prove itself.

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
    """Parent: whether a greeting proves the token; if so, the worker is welcomed."""
    if not -(2**63) <= hello.worker < 2**63:
        return False
    if not hmac.compare_digest(hello.proof, proof(token, Role.WORKER, channel.nonce, hello.worker)):
        return False
    channel.send(Welcome(proof(token, Role.PARENT, hello.nonce, hello.worker)))
    return True
