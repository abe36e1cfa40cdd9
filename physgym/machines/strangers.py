"""Connections that have not proved themselves: how they are accepted, and how many are waited for at a time."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Mapping
from typing import Any

from physgym.errors import ProtocolError
from physgym.protocol.messages import Role
from physgym.transport.auth import challenge
from physgym.transport.base import Channel
from physgym.transport.sockets import SocketChannel, lasting
from physgym.transport.tls import TlsChannel

STRANGERS = 64  # connections at a time that have not proved themselves
STRANGER_SECONDS = 10.0  # for the handshakes of TLS and of the token, over a slow link


def accepted(listener: socket.socket, context: Any) -> tuple[Channel, str] | None:
    """Accept a connection, and challenge who is at its other end.

    Args:
        listener: Where somebody has connected.
        context: For TLS; None for bare TCP.

    Returns:
        The connection, and the address of the other end; None where it is gone again, or there are no more descriptors.
    """
    try:
        sock, peer = listener.accept()
    except OSError:
        return None
    channel: Channel
    try:
        lasting(sock)
        channel = SocketChannel(sock, Role.PARENT) if context is None else TlsChannel(sock, Role.PARENT, context)
    except OSError:
        sock.close()
        return None
    with contextlib.suppress(ProtocolError):  # which shows when it is read
        challenge(channel)
    return channel, str(peer[0])


def one_too_many(strangers: Mapping[int, str]) -> int | None:
    """Return the stranger who has to make room for another one; None where there is room.

    Args:
        strangers: The address of each by its descriptor, the one who came first at the beginning.

    Returns:
        Of the address with most of them the one who came first.
    """
    if len(strangers) < STRANGERS:
        return None
    crowd = Counter(strangers.values()).most_common(1)[0][0]
    return next(file for file, peer in strangers.items() if peer == crowd)
