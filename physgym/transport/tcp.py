"""TCP on the loopback interface: a listener in the parent, to which workers dial."""

from __future__ import annotations

import socket
from typing import Any

from physgym.errors import ConfigError
from physgym.protocol.messages import Role
from physgym.transport.base import Channel, Listener, Transport
from physgym.transport.sockets import SocketChannel, above

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait in the kernel: workers are not to wait behind those who say nothing


class TcpListener(Listener):
    """The parent's socket to which workers connect.

    Args:
        port: TCP port; 0 takes a free one.
        host: Address of the interface.

    Attributes:
        address: Of the interface, and the port.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int = 0, host: str = LOOPBACK) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"port must be between 0 (any free one) and 65535, not {port}")
        try:
            self.sock = above(socket.create_server((host, port), backlog=BACKLOG))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}. Use port=0 for a free one") from error
        self.sock.setblocking(False)
        self.address: Any = self.sock.getsockname()[:2]

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


def dial(address: tuple[str, int], timeout: float) -> Channel:
    """Connect to a parent; return the worker's end."""
    return SocketChannel(socket.create_connection(address, timeout), Role.WORKER)


class Tcp(Transport):
    """TCP on the loopback interface."""

    dials = True

    def listen(self, port: int) -> Listener:
        """Return an address for workers."""
        return TcpListener(port)

    @classmethod
    def dial(cls, address: Any, timeout: float) -> Channel:
        """Connect to a parent; return the worker's end."""
        host, port = address
        return dial((host, port), timeout)
