"""The interface of a transport: a channel moves the messages of one connection, a listener gives channels to a parent.

A new transport subclasses `Channel`, `Listener` where workers connect to it, and `Transport`, which makes both;
`physgym.testing.transports` has the tests that it must pass.
"""

from __future__ import annotations

import secrets
import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar

from physgym.errors import ProtocolError
from physgym.protocol.connection import Connection
from physgym.protocol.messages import Close, GiveInputs, Message, Prediction, Role, WatchScenes

PARTS = 64  # handed to `Channel.write` at once


class PeerGone(ProtocolError):
    """The other end closed the connection or died."""


class Channel(ABC):
    """A connection that moves its messages.

    The parent's end never blocks: what the transport does not take at once waits in the channel, so that a worker that
    writes while it is written to cannot stop both. The worker's end blocks.

    Args:
        role: Which end this is.

    Attributes:
        connection: The protocol at this end.
        nonce: What the peer's proof has to answer.
    """

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role)
        self.nonce = secrets.token_bytes(32)
        self.blocks = role is Role.WORKER
        self._inbox: deque[Message] = deque()
        self._outbox: deque[memoryview] = deque()

    # --- what a transport implements

    @abstractmethod
    def write(self, parts: list[memoryview]) -> int:
        """Give bytes to the transport, as many as it takes at once; return how many.

        Where the channel `blocks`, some are taken; else the number may be 0.

        Raises:
            PeerGone: The peer closed the connection.
        """

    @abstractmethod
    def read(self, buffer: memoryview, *, wait: bool) -> int | None:
        """Put received bytes into a buffer; return how many, 0 where the peer closed the connection, then and later.

        Args:
            buffer: Where to put them.
            wait: Wait for them, which the end that `blocks` wants most of the time. Else return None if there are none,
                also where something came that holds no bytes for the caller, such as half a record.

        Raises:
            ProtocolError: Nothing came in the time set by `set_timeout`, or what came is nothing that can be read.
            PeerGone: The connection is broken.
        """

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor for selectors: readable when there is something to `receive`, the peer's end included."""

    @abstractmethod
    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long a channel that `blocks` waits for bytes in `read`, None for no limit.

        What does not wait still does not: a `read` without `wait`, and all of the parent's end. A `write` has no limit.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection; calling it again does no harm."""

    @property
    def has_input(self) -> bool:
        """Return whether a `read` would give bytes, or the end, that the descriptor does not show.

        True in transports that take more bytes from the descriptor than they hand on, as those that decrypt records.
        `receive` continues until it is not, so nobody has to ask before polling.
        """
        return False

    @property
    def wants(self) -> int:
        """Return the events of the descriptor, as in `select.poll`, on which to call `receive` or `flush`.

        They may change with each call. A transport that has to read before it can write, as in a handshake of its own,
        leaves out POLLOUT meanwhile, which would show again and again; else it is there as long as something is
        `unsent`. A descriptor that shows all events as input, as that of `select.epoll` does, needs no more: on any
        event what is `unsent` is flushed.
        """
        return select.POLLIN | select.POLLOUT if self.unsent else select.POLLIN

    # --- messages

    @property
    def unsent(self) -> bool:
        """Return whether something waits for `flush`; a transport that holds bytes of its own adds these."""
        return bool(self._outbox)

    def send(self, message: Message) -> None:
        """Send a message; at the parent's end what is not taken at once waits for `flush`.

        Raises:
            ProtocolError: It is not legal now, or holds what cannot be sent; nothing was sent then.
            PeerGone: The peer closed the connection.
        """
        self._outbox.extend(view for part in self.connection.send(message) if len(view := memoryview(part).cast("B")))
        self._flush_copied()

    def _flush_copied(self) -> None:
        """Send what waits; copy what is not taken at once, since the caller's arrays may change before it is sent."""
        self.flush()
        self._outbox = deque(part if type(part.obj) is bytes else memoryview(bytes(part)) for part in self._outbox)

    def flush(self) -> None:
        """Send what waits, as far as the transport takes it.

        Raises:
            PeerGone: The peer closed the connection.
        """
        while self._outbox:
            sent = self.write(list(self._outbox)[:PARTS])
            if not sent:
                return
            while sent:
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                    break
                sent -= len(self._outbox.popleft())

    def receive(self) -> list[Message]:
        """Take what has arrived; return the messages that it completes. Where the channel blocks, wait for something.

        Raises:
            ProtocolError: What arrived is not a legal frame.
            PeerGone: The peer closed the connection. The `messages` of both errors are those that came before.
        """
        return self._take(wait=self.blocks)

    def _take(self, *, wait: bool) -> list[Message]:
        messages: list[Message] = []
        try:
            while True:
                count = self.read(self.connection.get_buffer(), wait=wait)
                if count == 0 and not messages:
                    raise PeerGone("the peer closed the connection")
                if not count:  # the end of the peer shows again, behind its last words
                    return messages
                messages += self.connection.buffer_updated(count)
                if not self.has_input:
                    return messages
                wait = False
        except ProtocolError as error:
            error.messages = [*messages, *error.messages]
            raise

    def next(self) -> Message:
        """Return the next message; for the worker's end, which blocks. Raises as `receive` does."""
        while not self._inbox:
            self._inbox.extend(self.receive())
        return self._inbox.popleft()

    def next_prediction(self) -> Prediction:
        """Return the answer to a `Predict`; requests that come before it keep their order for `next`."""
        waiting: list[Message] = []
        while not isinstance(message := self.next(), Prediction):
            waiting.append(message)
        self._inbox.extendleft(reversed(waiting))
        return message

    @property
    def room(self) -> bool:
        """Return whether `send` would not wait for a small message, of some `LARGEST_PART` bytes; for the worker's end.

        What may be left out is sent only then. By default a descriptor that shows POLLOUT has room for that.
        """
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        return not self.unsent and bool(poll.poll(0))

    def watch_request(self) -> WatchScenes | None:
        """Return the last `WatchScenes` among the messages that wait, None if there is none, and take them out."""
        found = [message for message in self._inbox if isinstance(message, WatchScenes)]
        if not found:
            return None
        self._inbox = deque(message for message in self._inbox if not isinstance(message, WatchScenes))
        return found[-1]

    def given_inputs(self) -> list[GiveInputs]:
        """Return each `GiveInputs` among the messages that wait, in their order, and take them out."""
        found = [message for message in self._inbox if isinstance(message, GiveInputs)]
        if found:
            self._inbox = deque(message for message in self._inbox if not isinstance(message, GiveInputs))
        return found

    def asked_to_close(self) -> bool:
        """Return whether `Close` is among the requests that wait; for the worker's end. Raises as `receive` does."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while self.has_input or poll.poll(0):
            # without waiting: what has come may be no message, nor any byte of one
            self._inbox.extend(self._take(wait=False))
        return any(isinstance(message, Close) for message in self._inbox)


class Listener(ABC):
    """An address to which workers connect.

    Attributes:
        address: What a worker has to know in order to connect: JSON data.
    """

    address: Any

    @abstractmethod
    def accept(self) -> Channel | None:
        """Return the next connection, the parent's end; None if there is none after all. Never blocks."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor for selectors: readable when there is something to `accept`."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening; calling it again does no harm."""


class Transport(ABC):
    """A way to connect workers with their parent.

    The parent has an object, with the settings that it needs. A worker gets the name of the class, which it imports:
    hence the class methods for its end.

    Attributes:
        dials: Whether workers connect, maybe from another machine: such a transport has `listen` and `dial`. Else they
            inherit their end of a connection, and with it memory to share: such a transport has `pair` and `adopt`.
    """

    dials: ClassVar[bool]

    # --- at the parent

    def listen(self, port: int) -> Listener | None:
        """Return an address for workers that connect, None where they inherit their connections.

        Args:
            port: TCP port; 0 for a free one.

        Raises:
            ConfigError: It cannot be had.
        """
        return None

    def pair(self) -> tuple[Channel | None, socket.socket | None]:
        """Return the parent's end of a new connection, and what a worker inherits; None for both where workers connect.

        Raises:
            OSError: There is no descriptor left.
        """
        return None, None

    # --- at the worker

    @classmethod
    def dial(cls, address: Any, timeout: float) -> Channel:
        """Connect to a parent; return the worker's end.

        Args:
            address: The parent's `Listener.address`, after a way through JSON.
            timeout: Seconds to wait.

        Raises:
            OSError: Nobody listens.
        """
        raise NotImplementedError

    @classmethod
    def adopt(cls, sock: socket.socket) -> Channel:
        """Return the worker's end of a connection that it has inherited."""
        raise NotImplementedError
