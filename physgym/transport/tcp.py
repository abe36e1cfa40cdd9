"""TCP on the loopback interface: a listener in the parent, to which workers dial."""

from __future__ import annotations

import socket
import time

from physgym.errors import ConfigError
from physgym.protocol.messages import Role
from physgym.transport.auth import greet
from physgym.transport.base import Channel, Listener, PeerGone
from physgym.transport.sockets import SocketChannel, above

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait in the kernel: workers are not to wait behind those who say nothing
REDIAL = 0.05  # seconds until a worker that was turned away dials again


class TcpListener(Listener):
    """The parent's socket to which workers connect.

    Args:
        port: TCP port; 0 takes a free one.

    Attributes:
        address: Of the interface, and the port.

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
        """Return the next connection as a channel, None if there is none after all, or no descriptor for it."""
        try:
            sock, _ = self.sock.accept()
        except OSError:
            return None
        return SocketChannel(sock, Role.PARENT)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket; calling it again does no harm."""
        self.sock.close()


def dial(address: tuple[str, int], timeout: float) -> Channel:
    """Connect to a parent; return the worker's end."""
    return SocketChannel(socket.create_connection(address, timeout), Role.WORKER)


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
