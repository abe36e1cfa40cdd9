"""TCP on the loopback interface: a listener in the parent, to which workers connect."""

from __future__ import annotations

import socket
from typing import Any

from physgym.errors import ConfigError
from physgym.protocol.messages import Role
from physgym.transport.base import Channel, Listener, Transport
from physgym.transport.sockets import SocketChannel, SocketListener

LOOPBACK = "127.0.0.1"
BACKLOG = 1024  # connections that wait in the kernel: workers are not to wait behind those who say nothing


class TcpListener(SocketListener):
    """The parent's TCP socket to which workers connect.

    Args:
        port: TCP port; 0 takes a free one.
        host: Address of the interface.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int = 0, host: str = LOOPBACK) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"port must be between 0 (any free one) and 65535, not {port}")
        try:
            families = [found[0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            family = socket.AF_INET if socket.AF_INET in families else families[0]
            both = host == "::" and socket.has_dualstack_ipv6()
            sock = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            advice = "" if isinstance(error, socket.gaierror) else ". Use port=0 for a free one"
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}{advice}") from error
        super().__init__(sock, sock.getsockname()[:2])


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
