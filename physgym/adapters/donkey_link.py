"""`DonkeyLink`: the connection to a DonkeyCar simulator, which is the server.

The two directions are framed differently. The simulator sends JSON objects that end with a line break. What it reads it
splits at braces: a message is one flat object of texts, without a line break behind it. Older ones take what one read
gives them as one message, so that messages are sent with a pause between them.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from physgym.checks import is_real
from physgym.errors import ConfigError, SimulatorError

PAUSE = 0.01  # seconds between two messages
LONGEST = 16 << 20  # bytes of a message; a picture has some thousands
RECEIVED = 1 << 16
RETRIED, RETRY = 2.0, 0.1  # seconds in which a connection is tried again, and between two tries
PATIENCE = 0.5  # seconds until a connection is closed that the simulator does not close
# a number as some languages print it, 1,5 for 1.5: never valid where it stands in JSON
COMMA = re.compile(r'(":\s*-?\d+),(\d+(?:[eE][+-]?\d+)?)(?=\s*[,}\]])')


class DonkeyLink:
    """A connection on which no call waits for longer than it says.

    Args:
        host: Of the simulator.
        port: Of the simulator.
        timeout: Seconds in which it must answer.

    Raises:
        SimulatorError: Nobody answers there.
    """

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.place = f"{host}:{port}"
        self._socket = _connected(host, port, timeout, self.place)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting: deque[bytes] = deque()  # messages that are to be sent
        self._next = 0.0  # when the next one may be
        self._received = bytearray()
        self._searched = 0  # bytes of it in which there is no line break
        self._messages: deque[dict[str, Any]] = deque()

    def send(self, kind: str, **values: Any) -> None:
        """Send a message; it leaves with the next calls of `receive` or `flush`.

        Args:
            kind: Its type, such as "control".
            **values: Numbers, texts and flags.

        Raises:
            ConfigError: A value cannot be sent.
        """
        self._waiting.append(encoded({"msg_type": kind, **values}))

    def flush(self, timeout: float) -> None:
        """Send all messages that wait.

        Raises:
            SimulatorError: The simulator is gone, or does not read.
        """
        end = time.monotonic() + timeout
        while self._waiting:
            if time.monotonic() > end:
                raise SimulatorError(f"the simulator at {self.place} takes no messages for {timeout:g} s")
            self._exchange(min(0.05, max(0.0, end - time.monotonic())))

    def arrived(self, timeout: float) -> list[dict[str, Any]]:
        """Return all messages that the simulator has sent until now, of which the last one is taken in whole.

        Raises:
            SimulatorError: The simulator is gone, or there is no end of what it sends.
        """
        end = time.monotonic() + timeout
        while self._exchange(PAUSE if self._received else 0.0) or self._received:
            if time.monotonic() > end:
                raise SimulatorError(f"the simulator at {self.place} does not end a message within {timeout:g} s")
        found = list(self._messages)
        self._messages.clear()
        return found

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """Return the next message; None where none comes in time.

        Raises:
            SimulatorError: The simulator is gone, or sends something else.
        """
        end = time.monotonic() + timeout
        while not self._messages:
            rest = end - time.monotonic()
            if rest <= 0 and not self._waiting:
                return None
            self._exchange(max(0.0, min(rest, 0.05)))
            if rest <= 0:
                break
        return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        """Close the connection, once the simulator has read what was sent; calling it again does no harm."""
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError, ValueError):  # the latter of a closed one
            self._socket.shutdown(socket.SHUT_WR)
            # to close it with frames unread would take back what the simulator has not read
            while (rest := end - time.monotonic()) > 0 and select.select([self._socket], [], [], rest)[0]:
                if not self._socket.recv(RECEIVED):
                    break
        with contextlib.suppress(OSError):
            self._socket.close()

    def _exchange(self, timeout: float) -> bool:
        """Send what may be sent, take in what has arrived, and wait for either for so long at most.

        Returns:
            Whether something has arrived, of which there may be more.
        """
        now = time.monotonic()
        ready = bool(self._waiting) and now >= self._next
        pause = self._next - now if self._waiting and not ready else timeout
        try:
            readable, writable, _ = select.select(
                [self._socket], [self._socket] if ready else [], [], max(0.0, min(timeout, pause))
            )
            if writable:
                self._send_first()
            if readable:
                self._take(self._socket.recv(RECEIVED))
            return bool(readable)
        except BlockingIOError:
            return False
        except ConnectionResetError as error:
            raise SimulatorError(f"the simulator at {self.place} has closed the connection") from error
        except (OSError, ValueError) as error:  # the latter from a closed descriptor
            raise SimulatorError(f"the connection to the simulator at {self.place} broke: {error}") from error

    def _send_first(self) -> None:
        message = self._waiting[0]
        sent = self._socket.send(message)
        if sent < len(message):
            self._waiting[0] = message[sent:]
            return
        self._waiting.popleft()
        self._next = time.monotonic() + PAUSE

    def _take(self, data: bytes) -> None:
        if not data:
            raise SimulatorError(f"the simulator at {self.place} has closed the connection")
        self._received += data
        while (end := self._received.find(b"\n", self._searched)) >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            self._searched = 0
            if line.strip():
                self._messages.append(decoded(line, self.place))
        self._searched = len(self._received)
        if len(self._received) > LONGEST:
            raise SimulatorError(f"the simulator at {self.place} sends a message of more than {LONGEST} bytes")


def _connected(host: str, port: int, timeout: float, place: str) -> socket.socket:
    """Return a connection to a simulator, which may be about to start, or to let go of the car before."""
    end = time.monotonic() + min(timeout, RETRIED)
    while True:
        try:
            return socket.create_connection((host, port), timeout)
        except OSError as error:
            if time.monotonic() > end:
                raise SimulatorError(
                    f"no DonkeyCar simulator answers at {place} ({error}); start it there, or give its program as "
                    "`command`"
                ) from error
        time.sleep(RETRY)


def encoded(message: Mapping[str, Any]) -> bytes:
    """Return a message as the simulator reads it.

    Raises:
        ConfigError: A value is no number, text or flag, or a text has a brace, at which the simulator splits.
    """
    texts = {}
    for name, value in message.items():
        if value is True or value is False:
            text = str(value).lower()
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} of a message to the simulator must be finite, not {value}")
        elif is_real(value) or isinstance(value, str):
            text = str(value)
        else:
            raise ConfigError(f"{name} of a message to the simulator is a number, a text or a flag, not {value!r}")
        if "{" in text or "}" in text:
            raise ConfigError(f"{name} {text!r} has a brace, at which the simulator splits messages; leave it out")
        texts[name] = text
    return json.dumps(texts).encode()


def decoded(line: bytes, place: str) -> dict[str, Any]:
    """Return a message of the simulator; numbers with a comma for the point are read as well.

    Raises:
        SimulatorError: It is no message.
    """
    text = line.decode("utf-8", "replace").strip()
    try:
        message = json.loads(text)
    except ValueError:
        try:
            message = json.loads(COMMA.sub(r"\1.\2", text))
        except ValueError as error:
            raise SimulatorError(f"the simulator at {place} sends what is no JSON: {text[:80]!r} ({error})") from error
    if not isinstance(message, dict) or not isinstance(message.get("msg_type"), str):
        raise SimulatorError(f"the simulator at {place} sends a message without a type: {text[:80]!r}")
    return message
