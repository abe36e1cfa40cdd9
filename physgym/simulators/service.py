"""`SimulatorService`: lends the simulators of a pool to clients on other machines.

A thread does all of it, and waits for nobody: connections never block, and what takes time with a program happens in
the thread of that program.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from physgym.errors import ConfigError, ProtocolError, SimulatorError
from physgym.machines.address import CALLER, Address
from physgym.machines.reception import LONGEST_NAME, shown
from physgym.machines.strangers import STRANGER_SECONDS, accepted, one_too_many
from physgym.protocol.messages import Hello, Message, Refusal, ServiceAnswer, ServiceRequest, WorkerOffer
from physgym.simulators.pool import PoolSettings, SimulatorPool, Wanted
from physgym.transport.auth import admit
from physgym.transport.base import Channel, PeerGone
from physgym.transport.certificates import Certificate
from physgym.transport.tcp import TcpListener

CLIENTS = 512  # connections at a time that have proved themselves
LOOK = 1.0  # seconds between two looks where nothing happens
END = 10.0  # seconds for the thread to end, with all simulators
SAID = 50  # lines about clients that were turned away
LONGEST_WAIT = 86_400.0  # seconds for which a request may wait


@dataclass(eq=False)
class Line:
    """A connection of a client.

    Attributes:
        channel: The connection.
        peer: Its address.
        proved: Whether it has proved itself, and there was room for it.
        since: When it came; once it has proved itself, when it was heard last.
    """

    channel: Channel
    peer: str
    proved: bool = False
    since: float = field(default_factory=time.monotonic)


class SimulatorService:
    """A service that lends simulators; use it as a context manager, or close it.

    Args:
        settings: What its pool is like.
        address: Where to listen; port 0 takes a free one.
        token: The secret that both ends prove to know.
        certificate: For TLS; None for bare TCP, on a loopback address alone.
        clients: Context for TLS that asks clients for certificates too; None makes one from `certificate`.
        say: Takes a line about what happens; in the thread.

    Attributes:
        address: Where it listens.
        state: The simulators, as `SimulatorPool.listed` gave them last.

    Raises:
        ConfigError: An argument is wrong, or the address is taken.
    """

    def __init__(
        self,
        settings: PoolSettings,
        address: Address,
        token: bytes,
        certificate: Certificate | None,
        *,
        clients: ssl.SSLContext | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if certificate is None and not address.is_loopback:
            raise ConfigError(
                f"--plain sends everything in clear, and {address.host} is no loopback address; leave --plain out, or "
                "listen on 127.0.0.1 and have clients come through a tunnel of ssh"
            )
        self._token, self._say, self._said = token, say, 0
        self._context = clients or (None if certificate is None else certificate.context())
        self._listener = TcpListener(address.port, address.host)
        self.address = Address(address.host, self._listener.address[1])
        self.state: list[dict[str, Any]] = []
        self._lines: dict[int, Line] = {}
        self._end = False
        self._heard, self._wakeup = socket.socketpair()
        for end in (self._heard, self._wakeup):
            end.setblocking(False)
        self._pool = SimulatorPool(settings, self._wake, say)
        self._thread = threading.Thread(target=self._run, name="physgym-simulators", daemon=True)
        self._thread.start()

    @property
    def most(self) -> int:
        """Return how many simulators there may be."""
        return self._pool.settings.most

    def wait(self) -> None:
        """Wait until it ends, which by itself it does not.

        Raises:
            SimulatorError: It has failed.
        """
        while self._thread.is_alive():
            self._thread.join(LOOK)
        if not self._end:
            raise SimulatorError("the service has failed, and all simulators were ended")

    def close(self) -> None:
        """End all simulators and let nobody in any more; calling it again does no harm."""
        self._end = True
        self._wake()
        self._thread.join(END)

    def __enter__(self) -> SimulatorService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wakeup.send(b"!")

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._end:
                self._turn()
        finally:
            self._pool.close()
            for file in list(self._lines):
                self._dismiss(file)
            self._listener.close()
            self._heard.close()
            self._wakeup.close()

    def _turn(self) -> None:
        wait = min(LOOK, self._pool.look())
        self.state = self._pool.listed()
        poll = select.poll()
        for file in (self._listener.fileno(), self._heard.fileno()):
            poll.register(file, select.POLLIN)
        for file, line in self._lines.items():
            poll.register(file, line.channel.wants)
        for file, _ in poll.poll(wait * 1000):
            if file == self._listener.fileno():
                self._accept()
            elif file == self._heard.fileno():
                with contextlib.suppress(BlockingIOError):
                    while self._heard.recv(4096):
                        pass
            elif file in self._lines:
                self._hear(file, self._lines[file])
        now = time.monotonic()
        for file, line in list(self._lines.items()):
            if not line.proved and now > line.since + STRANGER_SECONDS:
                hint = "" if self._context is None else ", as a client does that was started with --plain"
                self._turn_away(file, f"has said nothing for {STRANGER_SECONDS:g} s{hint}")

    def _accept(self) -> None:
        found = accepted(self._listener.sock, self._context)
        if found is None:
            return
        channel, peer = found
        strangers = {file: line.peer for file, line in self._lines.items() if not line.proved}
        if (passed := one_too_many(strangers)) is not None:
            self._dismiss(passed)
        self._lines[channel.fileno()] = Line(channel, peer)

    def _hear(self, file: int, line: Line) -> None:
        """Continue with what somebody says."""
        try:
            messages = line.channel.receive()
            line.channel.flush()  # a handshake of TLS may have made room for it
            if line.proved:
                line.since = time.monotonic()
            for message in messages:
                if self._lines.get(file) is line:
                    self._obey(file, line, message)
        except PeerGone:
            self._dismiss(file)
        except ProtocolError as error:
            self._turn_away(file, str(error))

    def _obey(self, file: int, line: Line, message: Message) -> None:
        if isinstance(message, Hello):
            if message.worker != CALLER or not admit(line.channel, message, self._token):
                self._turn_away(file, "does not know the token; give it the same --token-file")
            elif sum(one.proved for one in self._lines.values()) < CLIENTS or self._make_room():
                line.proved, line.since = True, time.monotonic()
        elif isinstance(message, WorkerOffer):
            line.channel.send(Refusal("a simulator service listens here, and no run; look for the port of the run"))
            self._turn_away(file, "is a worker, which a run wants and no simulator service")
        elif isinstance(message, ServiceRequest) and not line.proved:
            line.channel.send(ServiceAnswer(f"{CLIENTS} clients wait or have simulators already; ask again later", {}))
            self._turn_away(file, f"is one client too many: there are {CLIENTS}")
        elif isinstance(message, ServiceRequest):
            try:
                self._do(line, message.action, message.arguments)
            except (SimulatorError, KeyError, TypeError, ValueError) as error:
                text = str(error) if isinstance(error, SimulatorError) else f"what was asked cannot be read ({error!r})"
                line.channel.send(ServiceAnswer(text, {}))
        else:
            self._turn_away(file, f"says {type(message).__name__}, which no client does")

    def _do(self, line: Line, action: str, arguments: dict[str, Any]) -> None:
        """Do what a client asks for, and answer, now or later."""
        channel = line.channel

        def answer(error: str, values: dict[str, Any]) -> None:
            with contextlib.suppress(PeerGone):  # which shows when it is read
                channel.send(ServiceAnswer(error, values))

        if action == "request":
            wait, attached = float(arguments["wait"]), arguments["attached"] is True
            if not 0 <= wait <= LONGEST_WAIT:
                raise SimulatorError(f"a request waits between 0 and {LONGEST_WAIT:g} s, not {wait}")
            holder = shown(f"{arguments['holder']} ({line.peer})", LONGEST_NAME)
            self._pool.request(Wanted(holder, time.monotonic() + wait, line, attached, answer))
        elif action == "renew":
            seconds = self._pool.renew(str(arguments["lease"]), line if arguments["attached"] is True else None)
            answer("", {"seconds": seconds})
        elif action == "release":
            self._pool.release(str(arguments["lease"]))
            answer("", {})
        elif action == "kill":
            self._pool.kill(str(arguments["lease"]))
            answer("", {})
        elif action == "list":
            answer("", {"most": self.most, "simulators": self._pool.listed()})
        else:
            raise SimulatorError(f"this service knows no {action!r}; it has another version of physgym")

    def _make_room(self) -> bool:
        """Hang up on the client that has said nothing for longest, and neither waits nor has a simulator.

        Returns:
            Whether there was one.
        """
        busy = self._pool.lines()
        idle = [(line.since, file) for file, line in self._lines.items() if line.proved and line not in busy]
        if idle:
            self._turn_away(min(idle)[1], f"has asked for nothing, and there are {CLIENTS} clients")
        return bool(idle)

    def _turn_away(self, file: int, why: str) -> None:
        """Forget somebody, and say so."""
        self._said += 1
        if self._said <= SAID:
            last = " (no more is said of others)" if self._said == SAID else ""
            self._say(f"{self._lines[file].peer} {shown(why)}; it was turned away{last}")
        self._dismiss(file)

    def _dismiss(self, file: int) -> None:
        """Forget somebody."""
        line = self._lines.pop(file, None)
        if line is not None:
            self._pool.hang_up(line)
            line.channel.close()
