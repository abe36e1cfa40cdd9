"""Progress: a bar on a terminal or in a notebook, elsewhere and in the log a plain line every so often."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from tqdm import tqdm

QUIET_INTERVAL = 10.0  # seconds between lines where there is no terminal
NOTEBOOK_COLUMNS = 200  # of a line in a notebook at most; no kernel knows its width, and a longer one goes on below
NOTEBOOK_BAR = "{l_bar}{bar:20}{r_bar}"  # of 20 characters, however long the note is

log = logging.getLogger(__name__)  # what is shown here is in the log as well
_quiet = 0  # how many blocks of `quiet` there are


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no progress and no notes on stderr within the block; the log has them."""
    global _quiet
    _quiet += 1
    try:
        yield
    finally:
        _quiet -= 1


class Progress:
    """Shows on stderr how far something has come; a context manager.

    Args:
        total: How much there is to do, None if unknown.
        description: What is done.
        unit: Of what.
        initial: How much is done already.
        enabled: False shows nothing.
    """

    def __init__(
        self, total: int | None, description: str, unit: str, *, initial: int = 0, enabled: bool = True
    ) -> None:
        shown = enabled and not _quiet
        notebook = _is_notebook()
        drawn = shown and (notebook or _is_terminal())
        self._bar = tqdm(
            total=total,
            desc=description,
            unit=unit,
            initial=initial,
            disable=not drawn,
            ncols=NOTEBOOK_COLUMNS if notebook else None,
            dynamic_ncols=not notebook,
            bar_format=NOTEBOOK_BAR if notebook and total else None,
        )
        # a log file wants lines, not the carriage returns with which a bar draws over itself
        self._lines = shown and not drawn
        self._logged = enabled and log.isEnabledFor(logging.DEBUG)
        self._total, self._description, self._unit = total, description, unit
        self._count, self._first, self._note = initial, initial, ""
        self._start = self._said = time.monotonic()
        self._said_count: int | None = None  # of the last line

    def update(self, count: int = 1, note: str | None = None) -> None:
        """Add a number of things that are done.

        Args:
            count: How much.
            note: Shown behind; None keeps the last one.
        """
        self._count += count
        if note is not None:
            self._note = note
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if (self._lines or self._logged) and time.monotonic() - self._said >= QUIET_INTERVAL:
            self._say()

    def close(self) -> None:
        """End the bar, or say the last state; calling it again does no harm."""
        self._bar.close()
        if (self._lines or self._logged) and self._said_count != self._count:
            self._say()
        self._lines = self._logged = False

    def _say(self) -> None:
        self._said, self._said_count = time.monotonic(), self._count
        seconds = self._said - self._start
        rate = (self._count - self._first) / seconds if seconds else 0.0
        whole = "" if self._total is None else f"/{self._total}"
        note = f", {self._note}" if self._note else ""
        remaining = ""
        if self._total is not None and rate and self._count < self._total:
            remaining = f", {(self._total - self._count) / rate:.0f} s left"
        text = (
            f"{self._description}: {self._count}{whole} in {seconds:.0f} s, {rate:.3g} {self._unit}/s{remaining}{note}"
        )
        if self._logged:
            log.debug("%s", text)
        if self._lines and sys.stderr is not None:  # the program was started without
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def say(text: str) -> None:
    """Write a line to stderr, before something is shown there; nothing where it is closed, or within `quiet`."""
    log.debug("%s", text)
    if _quiet:
        return
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _is_terminal() -> bool:
    """Return whether a bar can be drawn on stderr; terminals that pretend have no columns, and would show none."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # stderr is closed, or another object
        return False


def _is_notebook() -> bool:
    """Return whether stderr is shown in a notebook, which draws a bar as a terminal does."""
    return type(sys.stderr).__module__ == "ipykernel.iostream"
