"""A pair of unix sockets without an address: one end for the parent, one that its child inherits."""

from __future__ import annotations

import socket

from physgym.transport.sockets import above


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the parent's socket and the worker's, each to be made a `SocketChannel` by its process.

    Raises:
        OSError: There is no descriptor left.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return above(ours), above(theirs)
