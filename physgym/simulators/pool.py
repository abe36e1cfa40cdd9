"""`SimulatorPool`: the simulators of a service, and the leases with which clients have them.

Nothing here waits: the owner of the pool calls `look` when something may have changed, in one thread.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from physgym.checks import integer, positive
from physgym.errors import ConfigError, SimulatorError
from physgym.simulators.program import GRACE, Phase, Program, checked_command
from physgym.system.ports import free_port, is_free

LEFT = 5.0  # seconds that a lease lasts whose client has hung up: it may come back after a cut link
REMEMBERED = 1000  # leases that are over, and why
TRIES = 50  # ports that are tried, where the system names them
MOST = 1024  # simulators of a service

Answer = Callable[[str, dict[str, Any]], None]


@dataclass(eq=False)
class Lease:
    """A simulator that a client uses.

    Attributes:
        name: By which the client renews and ends it.
        holder: Who has it.
        expires: When it ends unless it is renewed.
        line: Connection of the client, with which it ends soon; None where it does not depend on one.
        since: When it began.
    """

    name: str
    holder: str
    expires: float
    line: object | None
    since: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Wanted:
    """A request for a simulator that is not answered yet.

    Attributes:
        holder: Who asks.
        deadline: Until when it waits for one that is free, or for room for another one.
        line: Connection of the client.
        attached: Whether the lease ends with the connection.
        answer: Takes the error, empty if there is none, and the values.
    """

    holder: str
    deadline: float
    line: object
    attached: bool
    answer: Answer


@dataclass(eq=False)
class Simulator:
    """A simulator of the pool.

    Attributes:
        number: Its number, which no other one gets.
        program: What runs.
        wanted: The request for which it was started, or is asked for an answer; None for none.
        lease: With which somebody has it; None where it is free.
        since: When it was started, taken or freed last.
        used: How often it was taken.
    """

    number: int
    program: Program
    wanted: Wanted | None = None
    lease: Lease | None = None
    since: float = field(default_factory=time.monotonic)
    used: int = 0

    @property
    def free(self) -> bool:
        """Return whether it may be taken."""
        return self.program.phase is Phase.READY and self.wanted is None and self.lease is None

    @property
    def state(self) -> str:
        """Return its state in a word."""
        if self.program.phase is Phase.READY:
            return "free" if self.lease is None else "lent"
        return str(self.program.phase.value)


@dataclass(frozen=True)
class PoolSettings:
    """Settings of a pool.

    Attributes:
        command: Program and arguments, with ``{port}``.
        most: How many simulators there may be at a time.
        ports: First and last port of simulators; None for free ones that the system names.
        host: Address at which simulators answer on this machine.
        advertise: Host that clients are to connect to; empty for the one at which they reach the service.
        start_timeout: Seconds until a program must accept connections.
        lease: Seconds after which a lease ends that is not renewed.
        idle: Seconds after which a free simulator is ended.

    Raises:
        ConfigError: A value is out of range.
    """

    command: Sequence[str]
    most: int = 8
    ports: tuple[int, int] | None = None
    host: str = "127.0.0.1"
    advertise: str = ""
    start_timeout: float = 60.0
    lease: float = 60.0
    idle: float = 600.0

    def __post_init__(self) -> None:
        checked_command(self.command)
        integer("most", self.most, 1, MOST)
        for name in ("start_timeout", "lease", "idle"):
            positive(name, getattr(self, name))
        if self.ports is not None and not 1 <= self.ports[0] <= self.ports[1] <= 65535:
            raise ConfigError(f"ports are FIRST-LAST, such as 9100-9107, from 1 to 65535, not {self.ports}")
        try:
            socket.getaddrinfo(self.host, None)
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"host {self.host!r} is no address at which simulators could answer: {error}") from error


class SimulatorPool:
    """Starts simulators when they are wanted, lends those that are free, and ends those that nobody wants.

    A simulator that was given back can be taken again. One whose lease was not renewed is ended: its client may still
    be connected to it.

    Args:
        settings: What it is like.
        changed: Called, in any thread, when `look` has something to do.
        say: Takes a line about what has become of a simulator.
    """

    def __init__(self, settings: PoolSettings, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self.settings = settings
        self._changed, self._say = changed, say
        self._simulators: dict[int, Simulator] = {}
        self._waiting: list[Wanted] = []
        self._over: OrderedDict[str, str] = OrderedDict()
        self._number = 0

    # --- what clients ask

    def request(self, wanted: Wanted) -> None:
        """Want a simulator; `Wanted.answer` is called once there is one, or none in time."""
        self._waiting.append(wanted)
        self.look()

    def renew(self, name: str, line: object | None) -> float:
        """Renew a lease; return the seconds that it lasts.

        Raises:
            SimulatorError: There is none.
        """
        lease = self._lent(name).lease
        assert lease is not None
        lease.expires, lease.line = time.monotonic() + self.settings.lease, line
        return self.settings.lease

    def release(self, name: str) -> None:
        """Take a simulator back, for others.

        Raises:
            SimulatorError: There is no such lease.
        """
        simulator = self._lent(name)
        self._end_lease(simulator, "it was given back")
        self.look()

    def kill(self, name: str) -> None:
        """End a simulator, by the name of its lease or by its number.

        Raises:
            SimulatorError: There is none.
        """
        found = self._simulators.get(int(name)) if name.isascii() and name.isdecimal() else None
        simulator = found or self._lent(name)
        self._end(simulator, "it was killed by a client")
        self.look()

    def hang_up(self, line: object) -> None:
        """Take note that a client has hung up: what it has waited for it wants no more, and its leases end soon."""
        self._waiting = [wanted for wanted in self._waiting if wanted.line is not line]
        for simulator in self._simulators.values():
            if simulator.wanted is not None and simulator.wanted.line is line:
                simulator.wanted = None
            lease = simulator.lease
            if lease is not None and lease.line is line:
                lease.line, lease.expires = None, min(lease.expires, time.monotonic() + LEFT)

    def lines(self) -> set[object]:
        """Return the connections of clients that wait, or on which a lease depends."""
        here = self._simulators.values()
        found = {wanted.line for wanted in (*self._waiting, *(one.wanted for one in here)) if wanted is not None}
        return found | {one.lease.line for one in here if one.lease is not None}

    def listed(self) -> list[dict[str, Any]]:
        """Return the simulators: number, state, port, holder, lease, seconds in this state, how often it was taken."""
        now = time.monotonic()
        return [
            {
                "number": simulator.number,
                "state": simulator.state,
                "port": simulator.program.port,
                "holder": "" if simulator.lease is None else simulator.lease.holder,
                "lease": "" if simulator.lease is None else simulator.lease.name,
                "seconds": round(now - simulator.since, 1),
                "used": simulator.used,
            }
            for simulator in self._simulators.values()
        ]

    # --- what goes on

    def look(self) -> float:
        """Do what is due; return the seconds until something else is, at most."""
        now = time.monotonic()
        for simulator in list(self._simulators.values()):
            self._look_at(simulator, now)
        for wanted in list(self._waiting):
            self._serve(wanted, now)
        due = [simulator.lease.expires for simulator in self._simulators.values() if simulator.lease is not None]
        due += [simulator.since + self.settings.idle for simulator in self._simulators.values() if simulator.free]
        due += [wanted.deadline for wanted in self._waiting if wanted.deadline > now]
        return max(0.01, min(due, default=now + 1.0) - now)

    def close(self) -> None:
        """End all simulators."""
        for wanted in self._waiting:
            wanted.answer("the service ends", {})
        self._waiting.clear()
        for simulator in self._simulators.values():
            simulator.program.end("the service ends")
        end = time.monotonic() + 2 * GRACE + 1.0
        for simulator in self._simulators.values():
            simulator.program.join(max(0.0, end - time.monotonic()))
        self._simulators.clear()

    def _look_at(self, simulator: Simulator, now: float) -> None:
        """Take note of what a program has come to, and of the time."""
        phase, lease = simulator.program.phase, simulator.lease
        if phase in (Phase.ENDING, Phase.ENDED):
            self._bury(simulator, phase is Phase.ENDED)
        elif simulator.wanted is not None and phase is Phase.READY:
            self._lend(simulator, simulator.wanted)
        elif lease is not None and now > lease.expires:
            text = f"its lease was not renewed in time; {lease.holder} had it"
            self._end(simulator, text)
        elif simulator.free and now > simulator.since + self.settings.idle:
            self._end(simulator, f"nobody has wanted it for {self.settings.idle:g} s")

    def _bury(self, simulator: Simulator, ended: bool) -> None:
        """Free those who wait for, or have, a simulator that ends."""
        reason = simulator.program.reason
        wanted, simulator.wanted = simulator.wanted, None
        if wanted is not None and not simulator.used:
            wanted.answer(f"no simulator could be started: {reason}", {})
        elif wanted is not None:  # one that was used before: there may be others
            self._waiting.insert(0, wanted)
        self._end_lease(simulator, reason)
        if ended:
            del self._simulators[simulator.number]
            self._say(f"simulator {simulator.number} has ended: {reason}")

    def _lend(self, simulator: Simulator, wanted: Wanted) -> None:
        """Give a simulator that answers to the client for whom it was asked."""
        now, simulator.wanted = time.monotonic(), None
        name = f"{simulator.number}-{secrets.token_hex(4)}"
        line = wanted.line if wanted.attached else None
        simulator.lease = Lease(name, wanted.holder, now + self.settings.lease, line)
        simulator.since, simulator.used = now, simulator.used + 1
        where = {"host": self.settings.advertise, "port": simulator.program.port}
        wanted.answer("", {"lease": name, "seconds": self.settings.lease, "number": simulator.number, **where})

    def _serve(self, wanted: Wanted, now: float) -> None:
        """Find a simulator for a request, or room for one."""
        free = [simulator for simulator in self._simulators.values() if simulator.free]
        if free:
            simulator = max(free, key=lambda one: one.since)  # so that the others become idle
            simulator.wanted = wanted
            simulator.program.check()
            self._waiting.remove(wanted)
        elif (port := self._port()) is not None:
            self._waiting.remove(wanted)
            self._start(wanted, port)
        elif now >= wanted.deadline and not any(one.program.phase is Phase.ENDING for one in self._simulators.values()):
            self._waiting.remove(wanted)  # else there is room in a moment
            wanted.answer(self._full, {})

    def _start(self, wanted: Wanted, port: int) -> None:
        self._number += 1
        settings = self.settings
        try:
            program = Program(settings.command, settings.host, port, settings.start_timeout, self._changed)
        except RuntimeError as error:  # there can be no more threads
            wanted.answer(f"no simulator could be started: {error}", {})
            return
        self._simulators[self._number] = Simulator(self._number, program, wanted)
        self._say(f"simulator {self._number} is started at port {port} for {wanted.holder}")

    def _port(self) -> int | None:
        """Return a port for one more simulator, at which nobody listens; None if there is none, or no room for one."""
        if len(self._simulators) >= self.settings.most:
            return None
        taken = {simulator.program.port for simulator in self._simulators.values()}
        if self.settings.ports is not None:
            first, last = self.settings.ports
            there = (port for port in range(first, last + 1) if port not in taken)
            return next((port for port in there if is_free(port)), None)
        for _ in range(TRIES):
            with contextlib.suppress(OSError):
                if (port := free_port()) not in taken:
                    return port
        return None

    @property
    def _full(self) -> str:
        """Return the error of a request for which nothing is free: it says who has what."""
        now, held = time.monotonic(), [one for one in self._simulators.values() if one.lease is not None]
        texts = [f"{one.number} by {one.lease.holder} for {now - one.lease.since:.0f} s" for one in held if one.lease]
        others = len(self._simulators) - len(held)
        more = f", and {others} start or end" if others else ""
        limit = f"there are {self.settings.most} already (--max)"
        if len(self._simulators) < self.settings.most:
            ports = "" if self.settings.ports is None else "of {}-{} ".format(*self.settings.ports)
            limit = f"no port {ports}is free for another one (--ports)"
        return (
            f"no simulator is free, and {limit}: {', '.join(texts) or 'none'} held{more}. "
            "Wait for one with --wait SECONDS"
        )

    def _lent(self, name: str) -> Simulator:
        """Return the simulator of a lease."""
        for simulator in self._simulators.values():
            if simulator.lease is not None and simulator.lease.name == name:
                return simulator
        why = f"it is over: {self._over[name]}" if name in self._over else "this service has given none of that name"
        raise SimulatorError(f"there is no lease {name!r}; {why}")

    def _end_lease(self, simulator: Simulator, reason: str) -> None:
        lease, simulator.lease = simulator.lease, None
        if lease is not None:
            simulator.since = time.monotonic()
            self._over[lease.name] = reason
            while len(self._over) > REMEMBERED:
                self._over.popitem(last=False)

    def _end(self, simulator: Simulator, reason: str) -> None:
        simulator.program.end(reason)
        self._bury(simulator, ended=False)
