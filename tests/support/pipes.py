"""Transports whose descriptor is that of an epoll object, which shows all events as input."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import termios

from physgym.errors import ProtocolError
from physgym.protocol.messages import Role
from physgym.system.descriptors import above_standard
from physgym.transport.base import Channel, PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.transport.unix import Unix, socket_pair


class PipeChannel(Channel):
    """One end of two pipes.

    Args:
        source: Descriptor to read from; the channel owns it.
        sink: Descriptor to write to; the channel owns it.
        role: Which end this is.
    """

    def __init__(self, source, sink, role):
        super().__init__(role)
        self._source, self._sink = above_standard(source), above_standard(sink)
        self._timeout = None
        os.set_blocking(self._source, False)
        os.set_blocking(self._sink, self.blocks)
        self._both = select.epoll()
        self._both.register(self._source, select.EPOLLIN)
        self._both.register(self._sink, 0)

    @property
    def wants(self):
        self._both.modify(self._sink, select.EPOLLOUT if self.unsent else 0)
        return super().wants

    @property
    def room(self):
        queued = fcntl.ioctl(self._sink, termios.FIONREAD, bytes(4))
        return not self.unsent and not int.from_bytes(queued, sys.byteorder)  # an empty pipe takes 64 kB

    def write(self, parts):
        try:
            return os.writev(self._sink, parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerGone(f"the peer closed the connection ({error})") from error

    def read(self, buffer, *, wait):
        if wait and not select.select([self._source], [], [], self._timeout)[0]:
            raise ProtocolError(f"nothing arrived for {self._timeout} s")
        try:
            return os.readv(self._source, [buffer])
        except BlockingIOError:
            return None

    def fileno(self):
        return self._both.fileno()

    def set_timeout(self, seconds):
        self._timeout = seconds

    def close(self):
        self._both.close()
        for one in (self._source, self._sink):
            with contextlib.suppress(OSError):
                os.close(one)
        self._source = self._sink = -1


class ShownAsInput(SocketChannel):
    """A socket whose events all show as input of another descriptor."""

    def __init__(self, sock, role):
        super().__init__(sock, role)
        self._shown = select.epoll()
        self._shown.register(self.sock, select.EPOLLIN)

    @property
    def wants(self):
        self._shown.modify(self.sock, select.EPOLLIN | (select.EPOLLOUT if self.unsent else 0))
        return super().wants

    def fileno(self):
        return self._shown.fileno()

    def close(self):
        self._shown.close()
        super().close()


class UnixShownAsInput(Unix):
    """Inherited sockets, whose parent's end shows all events as input."""

    def pair(self):
        ours, theirs = socket_pair()
        return ShownAsInput(ours, Role.PARENT), theirs
