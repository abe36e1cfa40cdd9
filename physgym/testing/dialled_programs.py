"""A program that connects as a worker, and the parent's end of its connections, for the rules that it has to keep."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from physgym.errors import ConfigError, ProtocolError
from physgym.protocol.messages import (
    Assignment,
    Challenge,
    Failure,
    Hello,
    Message,
    Predict,
    Prediction,
    Ready,
    Results,
    Role,
    RolloutResult,
    ScenePart,
    Welcome,
    WorkerOffer,
)
from physgym.system.children import Child
from physgym.testing.comparing import require
from physgym.transport.auth import proof
from physgym.transport.base import PeerGone
from physgym.transport.sockets import SocketChannel
from physgym.transport.tcp import TcpListener

SOON = 10.0  # seconds in which a worker notices that a connection is over, or is to be
SHOWN = 2000  # characters of what the program has written that a message shows

Heard = TypeVar("Heard", bound=Message)


class ParentEnd:
    """The parent's end of a connection to a worker, which says of everything what was expected and what came.

    Args:
        channel: The connection.
        token: The secret of both ends.
        timeout: Seconds to wait for an answer.

    Attributes:
        channel: As the argument.
        ready: What the worker has said of its environments.
    """

    def __init__(self, channel: SocketChannel, token: bytes, timeout: float) -> None:
        self.channel, self._token, self._timeout = channel, token, timeout
        self._heard: list[Message] = []
        self.ready = Ready(0, {})

    # --- to the worker

    def send(self, message: Message) -> None:
        """Send a message."""
        self.channel.send(message)
        self._flush()

    def write(self, data: bytes, *, at_once: int | None = None) -> None:
        """Send bytes that are no message, or not in one piece; so many at once."""
        size = at_once or max(1, len(data))
        for start in range(0, len(data), size):
            try:
                self.channel.sock.sendall(data[start : start + size])
            except OSError:
                return  # which shows when it is read

    def frame(self, message: Message) -> bytes:
        """Return a message as the bytes that are to be sent, by `write`."""
        return b"".join(bytes(part) for part in self.channel.connection.send(message))

    def _flush(self) -> None:
        deadline = time.monotonic() + self._timeout
        while self.channel.unsent:
            self._wait(select.POLLIN | select.POLLOUT, deadline, "that it reads what is sent")
            self.channel.flush()
            self._heard += self.channel.receive()

    # --- from the worker

    def hear(self, kind: type[Heard], what: str = "", timeout: float | None = None) -> Heard:
        """Wait for the next message, of a kind.

        Args:
            kind: Of the message.
            what: What it answers, for an error.
            timeout: Seconds to wait, by default as long as for any answer.

        Raises:
            AssertionError: It is another one, is not as the page has it, or does not come in time.
        """
        expected = f"{kind.__name__}{f' {what}' if what else ''}"
        message = self.next(expected, timeout)
        came = f"a Failure: {message.message}" if isinstance(message, Failure) else type(message).__name__
        require(isinstance(message, kind), f"expected {expected}; {came} came")
        assert isinstance(message, kind)
        return message

    def next(self, expected: str, timeout: float | None = None) -> Message:
        """Wait for the next message; frames are passed over, and predictions answered, as they may be.

        Raises:
            AssertionError: None comes in time, or what comes is not allowed.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        try:
            while True:
                while self._heard:
                    message = self._heard.pop(0)
                    if isinstance(message, Predict):
                        self.send(Prediction({}, "nobody predicts here"))
                    elif not isinstance(message, ScenePart):
                        return message
                self._wait(select.POLLIN, deadline, expected)
                self._heard += self.channel.receive()
        except PeerGone:
            raise AssertionError(f"expected {expected}; the worker closed the connection") from None
        except ProtocolError as error:
            raise AssertionError(f"expected {expected}; what came is not allowed: {error}") from error

    def _wait(self, events: int, deadline: float, expected: str) -> None:
        poll = select.poll()
        poll.register(self.channel.fileno(), events)
        seconds = deadline - time.monotonic()
        require(seconds > 0 and bool(poll.poll(seconds * 1000)), f"expected {expected}; nothing came in time")

    def ask(self, request: Message) -> list[Any]:
        """Send a request; return the parts of its answer, or its `Failure` alone."""
        self.send(request)
        return self.answer(type(request).__name__)

    def answer(self, request: str) -> list[Any]:
        """Return the parts of the answer to the oldest request, or its `Failure` alone."""
        parts: list[Any] = []
        while True:
            part = self.next(f"an answer to {request}")
            if isinstance(part, Failure):
                return [part]
            parts.append(part)
            if not isinstance(part, (Results, RolloutResult)) or part.last:
                return parts

    def answers(self, request: Message) -> list[Any]:
        """Return the parts of the answer to a request.

        Raises:
            AssertionError: It is a `Failure`.
        """
        found = self.ask(request)
        failed = found[0].message if isinstance(found[0], Failure) else ""
        require(not isinstance(found[0], Failure), f"expected an answer to {request!r:.200}; a Failure came: {failed}")
        return found

    def closed(self, because: str, *, silent: bool = True) -> None:
        """Wait until the worker closes the connection.

        Args:
            because: What it was sent.
            silent: Whether it may say nothing before.

        Raises:
            AssertionError: It does not, or says something before.
        """
        expected = f"that it closes the connection {because}"
        deadline = time.monotonic() + SOON
        received = b""
        while True:
            self._wait(select.POLLIN, deadline, expected)
            try:
                data = self.channel.sock.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            received += data
        require(not (silent and received), f"expected {expected}; {len(received)} bytes came before")

    # --- what both have to say at the beginning

    def greeted(self) -> Hello:
        """Send a challenge; return the greeting that answers it, whose proof is right.

        Raises:
            AssertionError: It is wrong.
        """
        self.send(Challenge(self.channel.nonce))
        hello = self.hear(Hello, "after Challenge")
        require(hello.worker == -1, f"expected Hello.worker -1, as of a worker without an index; {hello.worker} came")
        require(len(hello.nonce) == 32, f"expected a nonce of 32 bytes; one of {len(hello.nonce)} came")
        right = proof(self._token, Role.WORKER, self.channel.nonce, -1)
        require(
            hmac.compare_digest(hello.proof, right),
            f"expected HMAC-SHA-256(token, 'worker' + index + nonce) = {right.hex()}; {hello.proof.hex()} came. The "
            "token is the bytes that the digits in the file stand for; the index has 8 bytes, little-endian",
        )
        return hello

    def welcomed(self) -> WorkerOffer:
        """Go through the greeting of both ends; return what the worker offers."""
        hello = self.greeted()
        self.send(Welcome(proof(self._token, Role.PARENT, hello.nonce, -1)))
        return self.hear(WorkerOffer, "after Welcome")

    def assigned(self, env: str, arguments: dict[str, Any], count: int, mode: str = "NEXT_STEP") -> None:
        """Have environments made."""
        self.send(assignment(env, arguments, count, mode))
        self.ready = self.hear(Ready, f"for {count} x {env}")
        require(self.ready.count == count, f"expected Ready for {count} environments; {self.ready.count} came")

    @property
    def agreed(self) -> Any:
        """Return the layouts that follow from the description of the environments."""
        return self.channel.connection.agreement

    @property
    def sequence(self) -> int:
        """Return the number of the last request."""
        return self.channel.connection.ledger.sequence

    def close(self) -> None:
        """Close the connection; calling it again does no harm."""
        self.channel.close()


def assignment(env: str, arguments: dict[str, Any], count: int, mode: str = "NEXT_STEP") -> Assignment:
    """Return the order for environments of an id."""
    start = {
        "worker": 0,
        "first_env": 0,
        "num_envs": count,
        "autoreset_mode": mode,
        "timeout": 60.0,
        "seeds": None,
        "mark": "",
    }
    return Assignment(start, [{"make": "env", "env": env, "arguments": arguments}] * count)


class DialledProgram:
    """A program that was started as a worker, and the address to which it connects.

    Use it as a context manager, which ends the program with all that it has started.

    Args:
        command: The program and its arguments, to which those of a worker are added.
        envs: How many environments it is to offer; 0 does not say it.
        timeout: Seconds to wait for it, and for its answers.

    Raises:
        ConfigError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], envs: int = 0, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._links: list[ParentEnd] = []
        self._token = secrets.token_bytes(32)
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            file = self._folder / "token"
            file.touch(mode=0o600)
            file.write_text(self._token.hex() + "\n")
            self._listener = stack.enter_context(contextlib.closing(TcpListener()))
            self._written = stack.enter_context((self._folder / "written").open("w+b"))
            words = [*command, f"127.0.0.1:{self._listener.address[1]}", "--token-file", str(file)]
            words += ["--envs", str(envs)] if envs else []
            try:
                self.child = stack.enter_context(
                    Child(words, stdin=subprocess.DEVNULL, stdout=self._written, stderr=self._written)
                )
            except OSError as error:
                raise ConfigError(f"{command[0]} cannot be started: {error.strerror}") from error
            self._stack = stack.pop_all()

    def accept(self) -> ParentEnd:
        """Wait until the program connects; return the connection.

        Raises:
            AssertionError: It does not, or ends before.
        """
        deadline = time.monotonic() + self._timeout
        while (link := self.accepted(0.1)) is None:
            ended = self.child.process.poll()
            require(ended is None, f"expected that the program connects; it ended with status {ended}{self.written()}")
            require(time.monotonic() < deadline, f"expected that the program connects; it did not{self.written()}")
        return link

    def accepted(self, seconds: float) -> ParentEnd | None:
        """Return the next connection; None where none comes within so many seconds."""
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        if not poll.poll(seconds * 1000) or (channel := self._listener.accept()) is None:
            return None
        assert isinstance(channel, SocketChannel)
        link = ParentEnd(channel, self._token, self._timeout)
        self._links.append(link)
        return link

    def hang_up(self) -> None:
        """Close all connections, upon which the program may connect again."""
        while self._links:
            self._links.pop().close()

    def ended(self) -> int | None:
        """Wait for its end; return its exit status, None where it still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.child.process.wait(SOON)
        return None

    def redialled(self, seconds: float = 0.0) -> ParentEnd | None:
        """Wait until the program connects again; return the connection, None where it ends, or does neither in time."""
        deadline = time.monotonic() + (seconds or SOON)
        while time.monotonic() < deadline:
            if (link := self.accepted(0.1)) is not None:
                return link
            if not self.is_alive:
                return None
        return None

    def is_done(self, seconds: float = 0.0) -> bool:
        """Return whether it ends, or connects again, in time."""
        return self.redialled(seconds) is not None or not self.is_alive

    @property
    def is_alive(self) -> bool:
        """Return whether it still runs."""
        return self.child.process.poll() is None

    def written(self) -> str:
        """Return the end of what it has written, as the rest of a message."""
        text = (self._folder / "written").read_text(errors="replace").strip()
        return f". It wrote:\n{text[-SHOWN:]}" if text else ""

    def close(self) -> None:
        """End it; calling it again does no harm."""
        self.hang_up()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
