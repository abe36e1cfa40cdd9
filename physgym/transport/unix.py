"""A pair of unix sockets without an address: one end for the parent, one that its child inherits."""

from __future__ import annotations

import socket

from physgym.protocol.messages import Role
from physgym.transport.base import Channel, Transport
from physgym.transport.sockets import SocketChannel, above


class Unix(Transport):
    """A pair of sockets for each worker, which no other process can reach."""

    dials = False

    def pair(self) -> tuple[Channel, socket.socket]:
        """Return the parent's end of a new connection, and the socket that a worker inherits."""
        ours, theirs = socket_pair()
        return SocketChannel(ours, Role.PARENT), theirs

    @classmethod
    def adopt(cls, sock: socket.socket) -> Channel:
        """Return the worker's end of a connection that it has inherited."""
        return SocketChannel(sock, Role.WORKER)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the parent's socket and the worker's, each to be made a `SocketChannel` by its process.

    Raises:
        OSError: There is no descriptor left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return above(ours), above(theirs)
