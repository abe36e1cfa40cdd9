"""Many workers that dial in, in one process: the load of hundreds of connections, without as many processes.

Each speaks the protocol over a connection of its own, and serves its environments as a worker does.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gymnasium.vector import AutoresetMode

from physgym.code.env_description import identify_env
from physgym.errors import ProtocolError
from physgym.machines.address import CALLER
from physgym.machines.dialled_worker import DialIn, started
from physgym.machines.versions import versions_here
from physgym.protocol.messages import (
    Assignment,
    Call,
    Close,
    Closed,
    Message,
    Ready,
    Refusal,
    Reset,
    Rollout,
    Step,
    WatchScenes,
    WorkerOffer,
)
from physgym.transport.auth import greet
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed, failure
from physgym.worker.main import build_all
from physgym.worker.variants import Variants
from tests.support.machines import ROOT


class Member:
    """A worker of the crowd, behind its greeting.

    Args:
        settings: What it has to know.
    """

    def __init__(self, settings: DialIn) -> None:
        self._permissions = settings.permissions
        self.channel = settings.connected(30)
        self.channel.set_timeout(30)
        greet(self.channel, bytes.fromhex(settings.token), CALLER, os.getpid())
        self.channel.send(WorkerOffer(settings.count, "crowd", versions_here()))
        self.channel.blocks = False  # one waits for all
        self.group: EnvGroup | None = None

    def hear(self) -> bool:
        """Answer what has come; return whether the connection goes on."""
        try:
            self.channel.flush()
            return all(self.answer(message) for message in self.channel.receive())
        except ProtocolError:
            return False

    def answer(self, message: Message) -> bool:
        """Answer a message; return whether the connection goes on."""
        if isinstance(message, Assignment):
            self._make(message)
        elif isinstance(message, Close):
            self.channel.send(Closed())
        elif isinstance(message, WatchScenes):
            assert self.group is not None
            self.group.watch(message)
        elif isinstance(message, (Call, Reset, Rollout, Step)):
            self.channel.send(self._served(message))
        return not isinstance(message, Refusal)

    def _make(self, assignment: Assignment) -> None:
        start = started(assignment.start, "")
        try:
            factories = [self._permissions.factory(one) for one in assignment.environments]
            added = self._permissions.added(assignment.environments)
            envs, _, batch = build_all(factories, start.first_env, start.num_envs)
        except RequestFailed as failed:
            self.channel.send(failed.message())
            return
        except Exception as error:  # noqa: BLE001 - as a worker does
            self.channel.send(failure(-1, error))
            return

        def offer(part: Message) -> bool:
            self.channel.send(part)
            return True

        mode = AutoresetMode[start.autoreset_mode]
        self.group = EnvGroup(envs, mode, lambda _: None, start.seeds, offer=offer, batch=batch)  # type: ignore[arg-type, return-value]
        description = self.group.describe()
        description["code"] |= identify_env(envs[0].present if isinstance(envs[0], Variants) else envs[0], added)
        self.channel.send(Ready(len(envs), description))

    def _served(self, message: Message) -> Message:
        assert self.group is not None
        try:
            self._permissions.check(message)
            return self.group.serve(message, self.channel.send)
        except RequestFailed as failed:
            return failed.message()
        except Exception as error:  # noqa: BLE001 - as a worker does
            return failure(-1, error)


class Crowd:
    """Workers that are served by one thread.

    Args:
        settings: What each has to know.
        count: How many there are at a time.
        turnover: How many leave a second, without a word; others come in their place.
        make: Makes one.
        stop: Readable when all is over.
    """

    def __init__(
        self,
        settings: DialIn,
        count: int,
        turnover: float = 0.0,
        make: Callable[[DialIn], Member] = Member,
        stop: int = 0,
    ) -> None:
        self._settings, self._count, self._turnover, self._make = settings, count, turnover, make
        self._stop = stop
        self._members: dict[int, Member] = {}
        self._poll = select.epoll()
        self._poll.register(stop, select.EPOLLIN)

    def run(self) -> None:
        """Serve until all is over, or the parent has gone."""
        due = time.monotonic()
        try:
            while True:
                while len(self._members) < self._count:
                    self._join()
                for file, _ in self._poll.poll(0.02):
                    if file == self._stop:
                        return
                    if self._members[file].hear():
                        self._poll.modify(file, self._members[file].channel.wants)
                    else:
                        self._leave(file)
                if self._turnover and time.monotonic() > due and self._members:
                    due = time.monotonic() + random.expovariate(self._turnover)
                    self._leave(random.choice([*self._members]))
        except (ProtocolError, OSError):  # nobody listens any more
            return
        finally:
            for file in [*self._members]:
                self._leave(file)
            self._poll.close()

    def _join(self) -> None:
        member = self._make(self._settings)
        self._members[member.channel.fileno()] = member
        self._poll.register(member.channel.fileno(), member.channel.wants)

    def _leave(self, file: int) -> None:
        self._poll.unregister(file)
        self._members.pop(file).channel.close()


@contextmanager
def members(settings: DialIn, count: int = 1, make: Callable[[DialIn], Member] = Member) -> Iterator[None]:
    """Have so many workers dial in within the block, in a thread of this process."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=Crowd(settings, count, 0.0, make, theirs.fileno()).run)
    thread.start()
    try:
        yield
    finally:
        ours.close()
        thread.join(30)
        theirs.close()


@contextmanager
def crowd(settings: DialIn, count: int, turnover: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """Have so many workers dial in within the block, in another process."""
    command = [sys.executable, "-m", "tests.support.crowd", str(count), str(turnover)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    try:
        process.stdin.write(settings.to_line())
        process.stdin.flush()
        yield process
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        process.kill()
        process.wait(10)


if __name__ == "__main__":
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1 << 16)
    Crowd(DialIn.from_line(line), int(sys.argv[1]), float(sys.argv[2])).run()
