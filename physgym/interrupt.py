"""Ctrl-C between two steps of something, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupt:
    """While active, Ctrl-C raises `KeyboardInterrupt` at once, except inside of a `held` block: there it waits.

    An interrupt in the middle of an optimizer's step would leave some weights updated and others not. A second Ctrl-C
    does not wait. Outside of the main thread, and where Ctrl-C is ignored, nothing changes.

    Ctrl-C may come while Python runs the callback of a weak reference or a ``__del__``, out of which no exception
    gets. So it is noted as well, and the next `held` block or `check` raises it again.

    Args:
        patient: Ctrl-C raises nothing at all, however often it comes, but is noted.

    Attributes:
        waiting: Whether Ctrl-C came.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._previous: object = None
        self._patient, self._holding = patient, False
        self.waiting = False

    def __enter__(self) -> Self:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *args: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._previous = None

    def check(self) -> None:
        """Raise a Ctrl-C that came and raised nothing so far, or nothing that got through.

        Raises:
            KeyboardInterrupt: There was one.
        """
        if self.waiting and not self._patient:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is completed before an interrupt is raised.

        Raises:
            KeyboardInterrupt: Ctrl-C came inside.
        """
        self.check()
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self.check()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again, self.waiting = self.waiting, True
        if not self._patient and (again or not self._holding):
            raise KeyboardInterrupt
