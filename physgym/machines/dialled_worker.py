"""A worker that connects from another machine: what `physgym worker` starts, once for each of its processes.

The program that starts it says where to connect and what it may make, in a line on standard input; its parent says what
it is to make. It ends with its assignment; the program that started it starts another one.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from physgym.errors import ConfigError, PhysGymError, ProtocolError
from physgym.interrupt import outlive_announcements
from physgym.machines.address import CALLER, Address
from physgym.machines.dialling import Dialling
from physgym.machines.permissions import Permissions
from physgym.machines.versions import versions_here
from physgym.protocol.messages import Assignment, Refusal, WorkerOffer
from physgym.system import process_tree as tree
from physgym.system.cores import THREAD_VARIABLES
from physgym.transport.auth import greet
from physgym.transport.base import Channel, PeerGone
from physgym.worker.failures import failure
from physgym.worker.main import WorkerStart, end_with_parent, hold

REDIAL, LONGEST_REDIAL = 0.2, 5.0  # seconds until it dials again, at first and at last
GREETING = 15.0  # seconds for both handshakes
# exit statuses: the parent is done, the link is lost, it was refused, nobody answers, the parent wants a fresh process
DONE, LOST, REFUSED, NOBODY, AGAIN = 0, 3, 4, 5, 6
TO_TLS = "leave --plain out, and give --fingerprint"
OVER = signal.SIGUSR1  # says that the run is over, upon which a process ends that has no environments yet


@dataclass(frozen=True)
class DialIn(Dialling):
    """The settings of a worker that connects.

    Attributes:
        envs: The ids that the parent may name; empty for the shipped ones that do no harm.
        fixed: Arguments of environments that the parent cannot change.
        count: How many environments it hosts.
        patience: Seconds for which it tries to connect.
    """

    envs: list[str] = field(default_factory=list)
    fixed: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    patience: float = 60.0

    def to_line(self) -> bytes:
        """Return one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> DialIn:
        """Return what a line of `to_line` says."""
        return cls(**json.loads(line))

    @property
    def permissions(self) -> Permissions:
        """Return what it makes for its parent."""
        return Permissions(self.envs, self.fixed)


def dial_in(settings: DialIn, say: Callable[[str], None], mark: str) -> int:
    """Connect to a parent, and run what it wants; return the exit status.

    Args:
        settings: Where to connect, and what may be made.
        say: Takes a line for the program that started the worker.
        mark: Of what the environments start, which ends with this process.
    """
    deadline, pause, reason = time.monotonic() + settings.patience, REDIAL, ""
    offer = WorkerOffer(settings.count, platform.node(), versions_here(settings.envs))
    while True:
        try:
            channel = settings.connected(max(REDIAL, min(GREETING, deadline - time.monotonic())))
            try:
                channel.set_timeout(GREETING)
                greet(channel, bytes.fromhex(settings.token), CALLER, os.getpid())
                return _offered(channel, settings, offer, say, mark)
            finally:
                channel.close()
        except PeerGone:
            reason = "the parent hangs up: it does not know this token, or is crowded"
            if settings.plain:
                reason += f", or speaks TLS: {TO_TLS}"
        except ConfigError as error:
            say(str(error))
            return REFUSED
        except ProtocolError as error:
            hint = ""
            if settings.plain and "nothing arrived" in str(error):
                hint = f". A parent that waits too speaks TLS: {TO_TLS}"
            elif not settings.plain and not settings.fingerprint and settings.authorities is None:
                hint = ". Give --fingerprint as the run has printed it, or --authorities"
            say(f"{Address(*settings.address)}: {error}{hint}")
            return REFUSED
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() + pause > deadline:
            say(f"no parent answers at {Address(*settings.address)} within {settings.patience:g} s: {reason}")
            return NOBODY
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_REDIAL)


def _offered(channel: Channel, settings: DialIn, offer: WorkerOffer, say: Callable[[str], None], mark: str) -> int:
    """WorkerOffer environments, and serve them where they are wanted; return the exit status."""
    channel.send(offer)
    channel.set_timeout(None)  # there may be work in some hours
    try:
        answer = channel.next()
    except PeerGone:
        return LOST
    if isinstance(answer, Refusal):
        if not answer.reason:  # it is over
            return DONE
        say(answer.reason)
        return REFUSED
    assert isinstance(answer, Assignment)
    outlive_announcements()  # among them OVER: from here on the parent says when
    permissions = settings.permissions
    try:
        start = started(answer.start, mark)
        factories = [permissions.factory(one) for one in answer.environments]
        added = permissions.added(answer.environments)
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
        say(str(error))
        channel.send(failure(-1, error))
        return REFUSED
    end = hold(channel, start, lambda: factories, -1, -1, permissions.check, added)
    if end is None:
        return LOST
    return AGAIN if end.again else DONE


def started(start: Mapping[str, Any], mark: str) -> WorkerStart:
    """Return what a parent says to a worker that has no connection to make any more.

    Args:
        start: What it says.
        mark: Of the processes that end with the worker. It is the worker's own: whose mark a parent could choose, it
            could have ended.

    Raises:
        ConfigError: Something is missing, or there is more than that.
    """
    given = {**start, "mark": mark, "transport": "", "address": None, "token": "", "sys_path": [], "cores": None}
    modes = [mode.name for mode in AutoresetMode]
    if given.keys() != WorkerStart.__dataclass_fields__.keys() or given["autoreset_mode"] not in modes:
        raise ConfigError("what the parent says of the run cannot be read; it has another version of physgym")
    return WorkerStart(**given)


def main() -> None:
    """Run as the process of a worker: what it has to know comes in the first line of standard input."""
    line = sys.stdin.buffer.readline()
    settings = DialIn.from_line(line)
    os.environ.update({name: "1" for name in THREAD_VARIABLES if name not in os.environ})
    mark = tree.new_mark()
    os.environ.update(tree.marked(os.environ, mark))
    end_with_parent(0, mark)
    sys.path.insert(0, str(Path.cwd()))
    warnings.simplefilter("default")

    def say(text: str) -> None:
        sys.stderr.write(f"physgym worker: {text}\n")
        sys.stderr.flush()

    try:
        status = dial_in(settings, say, mark)
    except PhysGymError as error:
        say(str(error))
        status = REFUSED
    sys.exit(status)


if __name__ == "__main__":
    main()
