"""Ctrl-C between two optimization steps, never within one."""

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

    Args:
        patient: Ctrl-C raises nothing at all, however often it comes, but is noted.

    Attributes:
        waiting: Whether Ctrl-C came and nothing was raised yet.
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that is completed before an interrupt is raised.

        Raises:
            KeyboardInterrupt: Ctrl-C came inside.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.waiting and not self._patient:
            self.waiting = False
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self._patient or (self._holding and not self.waiting):
            self.waiting = True
        else:
            self.waiting = False
            raise KeyboardInterrupt
