"""A channel that behaves as one over TLS: no flags, records, and bytes that the descriptor does not show."""

from __future__ import annotations

import select
import socket

from physgym.errors import ProtocolError
from physgym.protocol.messages import Role
from physgym.testing.transports import ChannelContract
from physgym.transport.base import Channel, PeerGone
from physgym.transport.unix import socket_pair

RECORD = 1 << 14  # bytes that are taken from the socket at once
PIECE = 1000  # bytes that are handed on at once


class Records(Channel):
    """A channel that takes whole records from a socket and hands them on in pieces."""

    def __init__(self, sock: socket.socket, role: Role) -> None:
        super().__init__(role)
        self.sock, self.timeout, self.kept = sock, None, bytearray()
        sock.setblocking(False)  # as an SSL socket, which takes no flags

    def fileno(self):
        return self.sock.fileno()

    def set_timeout(self, seconds):
        self.timeout = seconds

    def close(self):
        self.sock.close()

    @property
    def has_input(self):
        return bool(self.kept)

    def write(self, parts):
        while True:
            try:
                return self.sock.send(b"".join(parts)[:RECORD])
            except BlockingIOError:
                if not self.blocks:
                    return 0
                select.select([], [self.sock], [])
            except OSError as error:
                raise PeerGone(f"the peer closed the connection ({error})") from error

    def read(self, buffer, *, wait):
        while not self.kept:
            try:
                self.kept += self.sock.recv(RECORD)
            except BlockingIOError:
                if not wait:
                    return None
                if not select.select([self.sock], [], [], self.timeout)[0]:
                    raise ProtocolError(f"nothing arrived for {self.timeout} s") from None
            except OSError as error:
                raise PeerGone(f"the peer closed the connection ({error})") from error
            else:
                if not self.kept:
                    return 0
        piece = self.kept[: min(PIECE, len(buffer))]
        buffer[: len(piece)] = piece
        del self.kept[: len(piece)]
        return len(piece)


class TestRecords(ChannelContract):
    def pair(self):
        ours, theirs = socket_pair()
        return Records(ours, Role.PARENT), Records(theirs, Role.WORKER)
