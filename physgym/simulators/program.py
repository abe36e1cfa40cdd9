"""`Program`: a simulator that runs, kept by a thread of its own from its start to its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

from physgym.errors import ConfigError
from physgym.machines.reception import shown
from physgym.system.children import Child
from physgym.system.ports import answers, holders

PORT = "{port}"
LOOK = 0.05  # seconds between two looks
ANSWER = 2.0  # seconds in which a simulator that runs accepts a connection
CHECKED = 10.0  # seconds in which one that was used before must do so
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
TAKEN = 1 << 16  # bytes of output at a time
KEPT = 1500  # bytes of its last output, for errors


class Phase(Enum):
    """State of a program; `MOVES` has the legal changes."""

    STARTING = "starting"
    READY = "ready"
    CHECKING = "checking"
    ENDING = "ending"
    ENDED = "ended"


MOVES = {
    Phase.STARTING: (Phase.READY, Phase.ENDING, Phase.ENDED),
    Phase.READY: (Phase.CHECKING, Phase.ENDING),
    Phase.CHECKING: (Phase.READY, Phase.ENDING),
    Phase.ENDING: (Phase.ENDED,),
    Phase.ENDED: (),
}


class Program:
    """A simulator's program: started, asked for an answer, read, watched, and ended with all that it has started.

    Everything that may take time happens in its thread.

    Args:
        command: Program and arguments, with ``{port}`` in at least one.
        host: Address at which it answers on this machine.
        port: Where it is to listen.
        patience: Seconds until it must.
        changed: Called in the thread after each change of the phase.

    Attributes:
        port: As the argument.
        phase: What it is doing.
        reason: Why it has ended, or is about to; empty before.
    """

    def __init__(
        self, command: Sequence[str], host: str, port: int, patience: float, changed: Callable[[], None]
    ) -> None:
        self.port, self.phase, self.reason = port, Phase.STARTING, ""
        self._words = [word.replace(PORT, str(port)) for word in command]
        self._host, self._changed = host, changed
        self._patience, self._deadline = patience, time.monotonic() + patience
        self._lock = threading.Lock()
        self._output = b""
        self._thread = threading.Thread(target=self._run, name=f"simulator at {port}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Have it asked for an answer again: it is ready afterwards, or ends."""
        self._become(Phase.CHECKING)

    def end(self, reason: str) -> None:
        """Have it ended; calling it again does no harm."""
        self._become(Phase.ENDING, reason)

    def join(self, timeout: float) -> None:
        """Wait until it has ended, for so many seconds at most."""
        self._thread.join(timeout)

    def _become(self, phase: Phase, reason: str = "") -> bool:
        """Take a phase; return whether the present one allows it."""
        with self._lock:
            if phase not in MOVES[self.phase]:
                return False
            self.phase, self.reason = phase, self.reason or reason
            if phase is Phase.CHECKING:  # here, since its thread may see no other phase before
                self._patience, self._deadline = CHECKED, time.monotonic() + CHECKED
        self._changed()
        return True

    # --- the thread

    def _run(self) -> None:
        try:
            read, write = os.pipe()
        except OSError as error:
            self._become(Phase.ENDED, f"{self._words[0]} cannot be started: {error}")
            return
        try:
            try:
                child = Child(self._words, stdin=subprocess.DEVNULL, stdout=write, stderr=write)
            finally:
                os.close(write)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._become(Phase.ENDED, f"{self._words[0]} cannot be started: {error}")
        else:
            try:
                self._keep(child, read)
                self._terminate(child, read)
            finally:
                child.end()
                self._become(Phase.ENDING, "the thread of the simulator has failed")
                self._become(Phase.ENDED)
        finally:
            os.close(read)

    def _keep(self, child: Child, read: int) -> None:
        """Look after it until it ends or is to end."""
        while self.phase is not Phase.ENDING:
            if (status := child.process.poll()) is not None:
                self._take(read, LOOK)
                self._become(Phase.ENDING, f"{self._words[0]} has ended with status {status}{self._said}")
                return
            if self.phase in (Phase.STARTING, Phase.CHECKING):
                self._probe(child)
            self._take(read, LOOK)

    def _probe(self, child: Child) -> None:
        """Find out whether it answers, and whether it is this program that does."""
        if answers(self._host, self.port, ANSWER):
            theirs = holders(self.port) - child.pids() if self.phase is Phase.STARTING else set()
            if not theirs:
                self._become(Phase.READY)
                return
            self._become(
                Phase.ENDING,
                f"another program (process {min(theirs)}) listens at port {self.port}; it was started late",
            )
        elif time.monotonic() > self._deadline:
            where, waited = f"{self._host}:{self.port}", self._patience
            self._become(
                Phase.ENDING, f"{self._words[0]} accepts no connection at {where} within {waited:g} s{self._said}"
            )

    def _take(self, read: int, timeout: float) -> None:
        """Read what it prints, so that it never waits for a reader; where it prints nothing, wait for so long."""
        poll = select.poll()
        poll.register(read, select.POLLIN)
        if poll.poll(timeout * 1000):
            data = os.read(read, TAKEN)
            self._output = (self._output + data)[-KEPT:]
            if not data:  # closed: it shows again and again
                time.sleep(timeout)

    def _terminate(self, child: Child, read: int) -> None:
        """Ask it to end, and give it a moment."""
        child.send(signal.SIGTERM)
        end = time.monotonic() + GRACE
        while child.process.poll() is None and time.monotonic() < end:
            self._take(read, LOOK)

    @property
    def _said(self) -> str:
        """Return what it has printed last, for the end of an error."""
        text = shown(" ".join(self._output.decode("utf-8", "replace").split()), KEPT)
        return f"; it has printed: {text}" if text else ""


def checked_command(command: Sequence[str]) -> list[str]:
    """Return a command for `Program`.

    Raises:
        ConfigError: It is empty, or has no place for the port.
    """
    if isinstance(command, str) or not command:
        raise ConfigError(f"command is a list of a program and its arguments, not {command!r}")
    if not any(PORT in word for word in command):
        raise ConfigError(f"the command of a simulator needs {PORT}, where its port stands, as in --port {PORT}")
    return list(command)
