"""`Upkeep`: a thread that does the same work again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Upkeep:
    """A thread that works at an interval, and when it is woken, until it is stopped.

    Args:
        name: Of the thread.
        interval: Seconds.
        work: The work.
        failed: Called with an exception of the work, after which it continues.
    """

    def __init__(
        self, name: str, interval: float, work: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        self._interval, self._work, self._failed = min(interval, threading.TIMEOUT_MAX), work, failed
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Let it work now."""
        self._wake.set()

    def stop(self) -> None:
        """Let it end after what it is at, see `stopping`; `join` waits for that."""
        self._stop.set()
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Return whether it was asked to stop."""
        return self._stop.is_set()

    @property
    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    @property
    def current(self) -> bool:
        """Return whether this code runs in the thread."""
        return threading.current_thread() is self._thread

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            try:
                self._work()
            except Exception as error:  # noqa: BLE001  # whatever it is, its owner hears of it
                self._failed(error)
