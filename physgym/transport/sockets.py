"""Channels over stream sockets of the operating system, which take flags and show by poll all that they hold."""

from __future__ import annotations

import socket
import struct
from typing import Any

from physgym.errors import ProtocolError
from physgym.protocol.messages import Message, Role
from physgym.system.descriptors import STANDARD, above_standard
from physgym.transport.base import Channel, Listener, PeerGone

IDLE, PROBE, LOST = 20, 5, 60  # seconds of silence until a link is probed, between probes, until it is given up
SOCKET_BUFFER = 1 << 20  # samples of a rollout pass with few switches between the processes


class SocketChannel(Channel):
    """A connection over a socket.

    Args:
        sock: A connected stream socket; the channel owns it.
        role: Which end this is.
    """

    def __init__(self, sock: socket.socket, role: Role) -> None:
        super().__init__(role)
        self.sock = sock = above(sock)
        sock.setblocking(True)
        self._timeout: float | None = None
        self._flags = 0 if self.blocks else socket.MSG_DONTWAIT
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long a channel that blocks waits for bytes, None for no limit."""
        # by the kernel: Python's own timeout would poll before each call, those that do not wait included
        limit = 0 if seconds is None else max(1, round(seconds * 1e6))  # microseconds; 0 is none
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", *divmod(limit, 10**6)))
        self._timeout = seconds

    def close(self) -> None:
        """Close the socket; calling it again does no harm."""
        self.sock.close()

    def send(self, message: Message) -> None:
        """Send a message as every channel does; small ones, most of which are taken at once, with one system call."""
        parts = self.connection.send(message)
        if len(parts) > 2 or self._outbox:
            self._outbox.extend(view for part in parts if len(view := memoryview(part).cast("B")))
        else:
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
        self._flush_copied()

    def receive(self) -> list[Message]:
        """Take what the socket has, as every channel does; all else shows by poll."""
        try:
            count = self.sock.recv_into(self.connection.get_buffer(), 0, self._flags)
        except OSError as error:
            if isinstance(error, BlockingIOError) and not self.blocks:
                return []
            raise self._failed(error) from error
        if count == 0:
            raise PeerGone("the peer closed the connection")
        return self.connection.buffer_updated(count)

    def write(self, parts: list[memoryview]) -> int:
        """Give bytes to the kernel, as many as it takes at once; return how many."""
        try:
            return self.sock.sendmsg(parts, [], self._flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _gone(error) from error

    def read(self, buffer: memoryview, *, wait: bool) -> int | None:
        """Put bytes that the kernel has received into a buffer; return how many."""
        try:
            return self.sock.recv_into(buffer, 0, 0 if wait else socket.MSG_DONTWAIT)
        except OSError as error:
            if isinstance(error, BlockingIOError) and not wait:
                return None
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> ProtocolError:
        if isinstance(error, BlockingIOError):
            return ProtocolError(f"nothing arrived for {self._timeout} s")
        return _gone(error)


class SocketListener(Listener):
    """A listening socket in the parent, to which workers connect.

    Args:
        sock: A bound stream socket that listens; the listener owns it.
        address: Address that a worker gets, JSON data.

    Attributes:
        address: As the argument.
    """

    def __init__(self, sock: socket.socket, address: Any) -> None:
        self.sock, self.address = above(sock), address
        self.sock.setblocking(False)

    def accept(self) -> Channel | None:
        """Return the next connection as a channel, None if there is none after all, or no descriptor for it."""
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return None
        return self.channel(sock)

    def channel(self, sock: socket.socket) -> Channel:
        """Return the parent's end of a connection; what makes something else of the socket overrides this."""
        return SocketChannel(sock, Role.PARENT)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket; calling it again does no harm."""
        self.sock.close()


def lasting(sock: socket.socket) -> None:
    """Have a connection to another machine survive a short loss of its link, and end some time after a long one."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", PROBE), ("TCP_KEEPCNT", (LOST - IDLE) // PROBE)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST * 1000)


def above(sock: socket.socket) -> socket.socket:
    """Return a socket whose descriptor is none of the standard ones; one whose is, is closed."""
    if sock.fileno() not in STANDARD:
        return sock
    return socket.socket(fileno=above_standard(sock.detach()))


def _gone(error: OSError) -> PeerGone:
    return PeerGone(f"the peer closed the connection ({error})")
