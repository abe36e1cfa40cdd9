"""Processes that run trials in other jobs of the same session, as elements of an array: they talk through its folder.

The process that holds the lock of the session drives the search; the others lend it their processes, each with a
folder of its own: a file to which the lender appends what the process says, another one to which the driver appends
what is asked of it, and one that the lender renews as long as it lives. Where the driver ends before the search does,
one of the others drives.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from physgym.experiment.search.pool import Pool, TrialMessage, TrialProcess
from physgym.files import write_atomically
from physgym.interrupt import InterruptCounter

FOLDER = "lent"
SAID, ASKED, ALIVE, DRIVER = "said", "asked", "alive", "driver"
BEAT = 5.0  # seconds between two signs of life
GONE = 60.0  # seconds without one, after which somebody is given up; file systems of clusters may show it late
LOOK = 0.2  # seconds between two looks of a lender
GRACE = 100.0  # seconds for a trial to be saved where its lender is to end
FIRST = 1 << 20  # number of the first lent process, above those of this machine
OVER, LEFT = "over", "left"  # what a driver says at its end


class Lines:
    """The lines of a file that another process appends to, as they come.

    Args:
        file: Need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, 0

    def new(self) -> list[TrialMessage]:
        """Return the messages that have come since."""
        try:
            with self._file.open("rb") as lines:
                lines.seek(self._place)
                data = lines.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class SignOfLife:
    """A file that another process renews, seen by the clock of this one.

    Args:
        file: The file.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._last, self._since = file, "", time.monotonic()

    def read(self) -> str | None:
        """Return what it says, None where it was not renewed for too long."""
        with contextlib.suppress(OSError):
            if (text := self._file.read_text()) != self._last:
                self._last, self._since = text, time.monotonic()
        return self._last if time.monotonic() - self._since < GONE else None


def _append(file: Path, message: TrialMessage) -> None:
    with file.open("ab", buffering=0) as lines:
        lines.write((json.dumps(message) + "\n").encode())


class LentProcesses:
    """The processes of this job, and those that others lend.

    Args:
        own: Those of this job.
        session: Folder of the search.
    """

    def __init__(self, own: Pool, session: Path) -> None:
        self._own, self._folder = own, session / FOLDER
        shutil.rmtree(self._folder, ignore_errors=True)  # of an earlier driver: lenders begin anew
        self._folder.mkdir()
        self._known: dict[str, int] = {}
        self._lent: dict[int, tuple[Path, Lines, SignOfLife]] = {}
        self._beaten, self._over = 0.0, False

    def _say(self, text: str) -> None:
        """Say to lenders that this process drives, or how it ended."""
        write_atomically(self._folder / DRIVER, text, durable=False)

    def open(self, number: int) -> None:
        """Start a process of this job."""
        self._own.open(number)

    def send(self, number: int, message: TrialMessage) -> None:
        """Tell a process something."""
        if number < FIRST:
            self._own.send(number, message)
        else:
            self._ask(number, {"send": message})

    def poll(self, timeout: float) -> list[tuple[int, TrialMessage]]:
        """Wait for messages of processes; those that others have begun to lend say that they are ready."""
        found = self._own.poll(timeout)
        if time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            self._say(str(self._beaten))
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in self._known:
                number = self._known[folder.name] = FIRST + len(self._known)
                self._lent[number] = folder, Lines(folder / SAID), SignOfLife(folder / ALIVE)
        for number, (_, lines, alive) in list(self._lent.items()):
            silent, messages = alive.read() is None, lines.new()
            if silent and not messages:
                messages = [{"kind": "dead", "reason": f"was not heard of for {GONE:g} s", "lent": True}]
            found += [(number, message) for message in messages]
            if any(message["kind"] == "dead" for message in messages):
                self._forget(number)
        return found

    def interrupt(self, number: int) -> None:
        """Send Ctrl-C to a process."""
        if number < FIRST:
            self._own.interrupt(number)
        else:
            self._ask(number, {"interrupt": True})

    def kill(self, number: int) -> None:
        """End a process at once."""
        if number < FIRST:
            self._own.kill(number)
        elif number in self._lent:
            self._ask(number, {"kill": True})
            del self._lent[number]

    def _ask(self, number: int, what: TrialMessage) -> None:
        with contextlib.suppress(OSError, KeyError):  # it has left; its last message says so
            _append(self._lent[number][0] / ASKED, what)

    def _forget(self, number: int) -> None:
        folder, _, _ = self._lent.pop(number)
        shutil.rmtree(folder, ignore_errors=True)  # one that is alive all the same notices that

    def end_search(self) -> None:
        """Note that all trials are done: otherwise another process is to drive the search on."""
        self._over = True

    def close(self) -> None:
        """End all processes."""
        try:
            for number in list(self._lent):
                self.kill(number)
            self._say(OVER if self._over else LEFT)
        finally:
            self._own.close()


class Lender:
    """Lends the driver of a search a process.

    Args:
        session: Folder of the search.
        environment: Variables of the process besides those of this one.
    """

    def __init__(self, session: Path, environment: Mapping[str, str]) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder = session / FOLDER / name
        self._folder.mkdir()
        self._process = TrialProcess(str(Path.cwd()), environment, str(session / "workers.log"))
        self._asked, self._beaten, self._busy, self._leaving = Lines(self._folder / ASKED), 0.0, False, False

    def look(self) -> bool:
        """Pass on what has come from both sides; return whether it continues.

        Raises:
            OSError: The driver has given it up.
        """
        if time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            # not `write_atomically`: in a folder that the driver has removed this is an error
            (self._folder / ALIVE).write_text(str(self._beaten))
        for message in self._process.receive(0.0):
            if message["kind"] == "end":
                self._busy = False
                if self._leaving:
                    message = {**message, "last": True}
            _append(self._folder / SAID, message)
            if message["kind"] == "dead" or message.get("last"):
                return False
        for asked in self._asked.new():
            if "send" in asked and not self._leaving:
                self._busy = True
                self._process.send(asked["send"])
            elif "interrupt" in asked:
                self._process.interrupt()
            elif "kill" in asked:
                return False
        return True

    def leave(self) -> bool:
        """Have a trial at work saved, and take no other; return whether there is one."""
        if not self._leaving:
            self._leaving = True
            if self._busy:
                self._process.interrupt()
            else:
                _append(self._folder / SAID, {"kind": "dead", "reason": "has left", "lent": True})
        return self._busy

    def close(self) -> None:
        """End the process."""
        self._process.kill()


def lend(session: Path, environments: Sequence[Mapping[str, str]], interrupts: InterruptCounter) -> str:
    """Lend processes to the driver of a search until it ends, or this process is to.

    Args:
        session: Folder of the search.
        environments: Variables of each process.
        interrupts: Says whether this process is to end; what runs is saved then.

    Returns:
        "over", or "left" where nobody drives the search any more; "" where this process is to end.
    """
    driver = SignOfLife(session / FOLDER / DRIVER)
    lenders: list[Lender | None] = [None] * len(environments)
    deadline = float("inf")
    try:
        while (said := driver.read()) not in (OVER, LEFT, None):
            if interrupts.count:
                deadline = min(deadline, time.monotonic() + GRACE)
                with contextlib.suppress(OSError):
                    at_work = [one for one in lenders if one is not None and one.leave()]
                    if not at_work or time.monotonic() > deadline:
                        return ""
            for place, lender in enumerate(lenders):
                try:
                    if lender is None and said and not interrupts.count:
                        lenders[place] = Lender(session, environments[place])
                    elif lender is not None and not lender.look():
                        lender.close()
                        lenders[place] = None
                except OSError:  # the driver has given it up, or another one has begun
                    if lender is not None:
                        lender.close()
                    lenders[place] = None
            time.sleep(LOOK)
        return LEFT if said is None else str(said)
    finally:
        for lender in lenders:
            if lender is not None:
                lender.close()
