"""Moves messages over sockets: one `Channel` per connection, a listener in the parent, a dialler in the worker."""

from __future__ import annotations

import hmac
import socket

from physgym.errors import ConfigError, ProtocolError
from physgym.vector.wire import Connection, Hello, Message, Role

LOOPBACK = "127.0.0.1"


class PeerGone(ProtocolError):
    """The other end closed the connection or died."""


class Channel:
    """A connection over a socket.

    Args:
        sock: A connected stream socket; the channel owns it.
        role: Which end this is.
        timeout: Seconds that sending may block.
    """

    def __init__(self, sock: socket.socket, role: Role, timeout: float) -> None:
        self.sock = sock
        self.connection = Connection(role)
        sock.settimeout(timeout)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.sock.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ProtocolError: It is not legal now, or the peer does not take it within the timeout.
            PeerGone: The peer closed the connection.
        """
        buffers = [memoryview(part).cast("B") for part in self.connection.send(message)]
        try:
            _send_all(self.sock, [part for part in buffers if len(part)])
        except TimeoutError as error:
            raise ProtocolError(f"the peer took no data for {self.sock.gettimeout()} s") from error
        except OSError as error:
            raise PeerGone(f"the peer closed the connection ({error})") from error

    def receive_some(self) -> Message | None:
        """Take what the socket has; the message if that completes one. Blocks only if there is nothing.

        Raises:
            ProtocolError: What arrived is not a legal frame.
            PeerGone: The peer closed the connection.
        """
        try:
            count = self.sock.recv_into(self.connection.get_buffer())
        except TimeoutError as error:
            raise ProtocolError(f"nothing arrived for {self.sock.gettimeout()} s") from error
        except OSError as error:
            raise PeerGone(f"the peer closed the connection ({error})") from error
        if count == 0:
            raise PeerGone("the peer closed the connection")
        return self.connection.buffer_updated(count)

    def close(self) -> None:
        """Close the socket; calling it again does no harm."""
        self.sock.close()


def _send_all(sock: socket.socket, parts: list[memoryview]) -> None:
    """Write all buffers with as few system calls as the kernel allows."""
    while parts:
        sent = sock.sendmsg(parts[:64])
        while sent:
            if sent < len(parts[0]):
                parts[0] = parts[0][sent:]
                break
            sent -= len(parts[0])
            parts.pop(0)


class Listener:
    """The parent's socket to which workers connect, on the loopback interface.

    Args:
        port: TCP port; 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"port must be between 0 (any free one) and 65535, not {port}")
        try:
            self.sock = socket.create_server((LOOPBACK, port), backlog=128)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror}. Use port=0 for a free one"
            ) from error
        self.address: tuple[str, int] = self.sock.getsockname()[:2]

    def accept(self, timeout: float) -> Channel:
        """The next connection as a channel.

        Raises:
            TimeoutError: None came in time.
        """
        self.sock.settimeout(timeout)
        sock, _ = self.sock.accept()
        return Channel(sock, Role.PARENT, timeout)

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def dial(address: tuple[str, int], timeout: float) -> Channel:
    """Connect to a parent."""
    return Channel(socket.create_connection(address, timeout), Role.WORKER, timeout)


def authentic(hello: Hello, token: str) -> bool:
    """Whether a greeting carries the token, compared in constant time."""
    return hmac.compare_digest(hello.token.encode(), token.encode())
