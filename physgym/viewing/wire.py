"""The way between what runs and its viewers: a stream of maps in msgpack, each behind its length.

Nothing that is sent is ever executed. A viewer that connects proves that it knows the token, and so does the other end;
until then it may send a few hundred bytes of numbers and texts.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.msgpack_values import decode_plain, decode_value, encode_value

VERSION = 1
LENGTH = struct.Struct("<I")
LARGEST = 1 << 28  # bytes of a message to a viewer
LARGEST_WISH = 1 << 16  # bytes of a message of a viewer
LARGEST_GREETING = 1 << 9
TAKEN = 1 << 18  # bytes that are received at once


def packed(message: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: It holds what cannot be sent, or is too large.
    """
    data = encode_value(dict(message))
    if len(data) > LARGEST:
        raise ProtocolError(f"a message of {len(data)} bytes exceeds the limit of {LARGEST}")
    return LENGTH.pack(len(data)) + data


class Received:
    """The bytes that have come, and the messages in them.

    Args:
        largest: Bytes of a message.

    Attributes:
        largest: As the argument.
        plain: Whether messages hold numbers and bytes alone, as of somebody who has proved nothing yet.
    """

    def __init__(self, largest: int, *, plain: bool = False) -> None:
        self.largest, self.plain = largest, plain
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Take bytes."""
        self._data += data

    def next(self) -> dict[str, Any] | None:
        """Return the next message; None where it is not complete.

        Raises:
            ProtocolError: It is none.
        """
        if len(self._data) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._data)
        if length > self.largest:
            raise ProtocolError(f"a message of {length} bytes exceeds the limit of {self.largest}")
        end = LENGTH.size + length
        if len(self._data) < end:
            return None
        body = bytes(self._data[LENGTH.size : end])
        del self._data[:end]
        message = decode_plain(body) if self.plain else decode_value(body)
        if not isinstance(message, dict):
            raise ProtocolError("a message is no map")
        return message


def proof(token: str, role: str, nonce: bytes) -> bytes:
    """Return the HMAC-SHA-256 of a nonce, bound to who proves."""
    return hmac.digest(bytes.fromhex(token), role.encode() + nonce, "sha256")


class Link:
    """A viewer's end.

    Args:
        sock: A connected socket; the link owns it.

    Attributes:
        sock: As the argument.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = Received(LARGEST)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message.

        Raises:
            OSError: The other end is gone.
        """
        self.sock.sendall(packed(message))

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None where none came in time.

        Raises:
            EOFError: The other end is gone.
            ProtocolError: What came is none.
        """
        until = time.monotonic() + seconds
        while (message := self._received.next()) is None:
            self.sock.settimeout(max(1e-3, until - time.monotonic()))
            try:
                data = self.sock.recv(TAKEN)
            except TimeoutError:
                return None
            except OSError as error:
                raise EOFError(str(error)) from error
            if not data:
                raise EOFError("what was watched has ended")
            self._received.add(data)
        return message

    def close(self) -> None:
        """Let go of the connection; calling it again does no harm."""
        self.sock.close()


def dial(path: str, token: str, seconds: float = 10.0) -> tuple[Link, dict[str, Any]]:
    """Return a link to what runs, and its first words, once both ends have proved themselves.

    Args:
        path: Of the socket.
        token: The secret.
        seconds: How long to wait.

    Raises:
        ConfigError: Nobody answers, the token is wrong, or the other end is of another version.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link = Link(sock)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
        opening = link.receive(seconds)
        if opening is None:
            raise ConfigError(f"what runs does not answer within {seconds:g} s; it may be stopped, or busy. Try again")
        if opening.get("version") != VERSION:
            raise ConfigError(
                f"what runs speaks version {opening.get('version')} to viewers, this physgym {VERSION}; watch it with "
                "the same physgym"
            )
        nonce = secrets.token_bytes(32)
        link.send({"nonce": nonce, "proof": proof(token, "viewer", opening["nonce"])})
        words = link.receive(seconds)
        if words is None or not hmac.compare_digest(words["proof"], proof(token, "run", nonce)):
            raise ConfigError("what answers at the socket does not know the token; somebody else has taken its place")
    except (EOFError, ProtocolError, KeyError, TypeError) as error:
        link.close()
        raise ConfigError(
            "what runs has hung up: the token is wrong, or it has just ended. Nothing was disturbed; try again"
        ) from error
    except OSError as error:
        link.close()
        raise ConfigError(f"what ran is gone: nobody listens at its socket ({error.strerror})") from error
    except BaseException:
        link.close()
        raise
    return link, words
