"""A connection within this process, for tests: both ends in memory, as fast or as slow as a socket would be."""

from __future__ import annotations

import contextlib
import socket
import threading

from physgym.errors import ProtocolError
from physgym.protocol.messages import LARGEST_PART, Role
from physgym.transport.base import Channel, PeerGone
from physgym.transport.unix import socket_pair

CAPACITY = 1 << 16  # bytes under way: more have to wait, as in a socket
HEADS = 1 << 10  # bytes of a small message but for what it carries


class _Stream:
    """The bytes under way in one direction.

    Args:
        wakeup: A socket whose other end becomes readable by what is sent into it.
    """

    def __init__(self, wakeup: socket.socket) -> None:
        self.data = bytearray()
        self.closed = False
        self.changed = threading.Condition()
        wakeup.setblocking(False)
        self._wakeup = wakeup

    def ring(self) -> None:
        """Make the reader's descriptor readable."""
        with contextlib.suppress(OSError):  # full: it is readable already; closed: nobody looks
            self._wakeup.send(b"!")

    def close(self) -> None:
        """End the stream; what is under way can still be read."""
        with self.changed:
            self.closed = True
            self.ring()
            self.changed.notify_all()

    def abandon(self) -> None:
        """End the stream at the end that reads."""
        self.close()
        self._wakeup.close()


class MemoryChannel(Channel):
    """One end of a connection within this process; `memory_pair` makes both.

    Args:
        role: Which end this is.
        incoming: Bytes from the other end.
        outgoing: Bytes to the other end.
        wakeup: Readable when something comes in.
    """

    def __init__(self, role: Role, incoming: _Stream, outgoing: _Stream, wakeup: socket.socket) -> None:
        super().__init__(role)
        self._incoming, self._outgoing, self._wakeup = incoming, outgoing, wakeup
        self._timeout: float | None = None
        wakeup.setblocking(False)

    def fileno(self) -> int:
        """Return a descriptor that is readable when something came in."""
        return self._wakeup.fileno()

    @property
    def room(self) -> bool:
        """Return whether `send` would not wait for a small message."""
        return not self.unsent and len(self._outgoing.data) + LARGEST_PART + HEADS <= CAPACITY

    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long a channel that blocks waits for the peer, None for no limit."""
        self._timeout = seconds

    def close(self) -> None:
        """Close both directions; calling it again does no harm."""
        self._outgoing.close()
        self._incoming.abandon()
        self._wakeup.close()

    def write(self, parts: list[memoryview]) -> int:
        """Put bytes under way, as many as there is room for; return how many."""
        stream, written = self._outgoing, 0
        with stream.changed:
            if self.blocks:
                stream.changed.wait_for(lambda: stream.closed or len(stream.data) < CAPACITY)
            if stream.closed:
                raise PeerGone("the peer closed the connection")
            for part in parts:
                taken = part[: CAPACITY - len(stream.data)]
                stream.data += taken
                written += len(taken)
            if written:
                stream.ring()
                stream.changed.notify_all()
        return written

    def read(self, buffer: memoryview, *, wait: bool) -> int | None:
        """Take bytes that are under way into a buffer; return how many."""
        stream = self._incoming
        with stream.changed:
            if wait and not stream.changed.wait_for(lambda: stream.closed or stream.data, self._timeout):
                raise ProtocolError(f"nothing arrived for {self._timeout} s")
            count = min(len(buffer), len(stream.data))
            buffer[:count] = stream.data[:count]
            del stream.data[:count]
            if not stream.data and not stream.closed:
                with contextlib.suppress(BlockingIOError):
                    while self._wakeup.recv(4096):
                        pass
            stream.changed.notify_all()
            return count if count or stream.closed else None


def memory_pair() -> tuple[Channel, Channel]:
    """Return the parent's end and the worker's end of a connection."""
    (parent_wakeup, to_parent), (worker_wakeup, to_worker) = socket_pair(), socket_pair()
    up, down = _Stream(to_parent), _Stream(to_worker)
    return (
        MemoryChannel(Role.PARENT, up, down, parent_wakeup),
        MemoryChannel(Role.WORKER, down, up, worker_wakeup),
    )
