"""`Supervisor`: keeps the processes of a worker command running, and ends with what they have come to."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from physgym.machines.dialled_worker import AGAIN, DONE, LOST, NOBODY, OVER, DialIn
from physgym.system.children import Child

LOOK = 0.05  # seconds between two looks at the processes
SHORT = 5.0  # seconds: a process that ends sooner has not worked
PAUSE, LONGEST_PAUSE = (
    0.2,
    10.0,
)  # seconds until one takes the place of another that has not worked, at first and at last
GRACE = 20.0  # seconds that others with environments have, to close them, where the run is over for one
FRUITLESS = 5  # processes in a row that were let go without any work


class _Place:
    """The place of a process, and of those that follow it."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.begun = self.due = 0.0
        self.fruitless = 0
        self.renewed = False  # whether a parent has asked for another process
        self.status: int | None = None  # with which it is over


class Supervisor:
    """Runs processes that connect to a parent, each again where its link was lost.

    Args:
        settings: What they have to know.
        count: How many.
        stay: Whether to connect again after the end of a run.
        **options: Of `subprocess.Popen`, for each of them.
    """

    def __init__(self, settings: DialIn, count: int, *, stay: bool, **options: Any) -> None:
        self._settings, self._stay, self._options = settings, stay, options
        self._over_since: float | None = None  # when the run was over for one of them
        self._places = [_Place() for _ in range(count)]

    def run(self) -> int:
        """Keep them running until all are done; return 0, or the status of one that failed."""
        try:
            while any(place.status is None for place in self._places):
                for place in self._places:
                    self._look(place)
                if any(place.status not in (None, DONE) for place in self._places):
                    break  # what one was refused for holds for all
                if self._over_since is not None and time.monotonic() > self._over_since + GRACE:
                    break
                time.sleep(LOOK)
        finally:
            for place in self._places:
                if place.child is not None:
                    place.child.end()
        if self._over_since is not None:
            return DONE
        return next((place.status for place in self._places if place.status), DONE)

    def _look(self, place: _Place) -> None:
        now = time.monotonic()
        if place.status is not None or now < place.due:
            return
        if place.child is None and self._over_since is not None:
            place.status = DONE
            return
        if place.child is None:
            place.child, place.begun = self._started(), now
            return
        status = place.child.process.poll()
        if status is None:
            return
        place.child.end()
        place.child = None
        if status == AGAIN:
            place.fruitless, place.renewed = 0, True
        elif self._over_since is not None and status == -OVER:
            place.status = DONE
        elif (status == DONE or (status == NOBODY and place.renewed)) and not self._stay:  # the run may be over since
            place.status = DONE
            self._end_dialling(now)
        elif status in (DONE, LOST) or status < 0 or status == 1:  # 1: it has ended itself, since its parent was gone
            place.fruitless = 0 if now - place.begun > SHORT else place.fruitless + 1
            place.due = now + min(LONGEST_PAUSE, PAUSE * 2**place.fruitless)
            if place.fruitless > FRUITLESS and status != DONE:
                sys.stderr.write("physgym worker: it was let go again and again without work; see what the run says\n")
                place.status = LOST
        elif status == NOBODY and self._stay:
            place.due = now + LONGEST_PAUSE
        else:
            place.status = status

    def _end_dialling(self, now: float) -> None:
        """Take note that the run is over, and end processes that still try to connect: nobody answers them any more."""
        if self._over_since is not None:
            return
        self._over_since = now
        for place in self._places:
            if place.child is not None and place.child.process.poll() is None:
                place.child.process.send_signal(OVER)

    def _started(self) -> Child:
        command = [sys.executable, "-m", "physgym.machines.dialled_worker"]
        child = Child(command, stdin=subprocess.PIPE, **self._options)
        assert child.process.stdin is not None
        child.process.stdin.write(self._settings.to_line())
        child.process.stdin.flush()
        return child
