"""File descriptors that a process keeps: never 0, 1 or 2, which belong to standard input, output and error.

Where a program was started with one of these closed (``<&-``, ``>&-``), the next file that is opened gets its number,
and what somebody's C code prints lands in that file.
"""

from __future__ import annotations

import contextlib
import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

STANDARD = (0, 1, 2)


def fill_standard() -> None:
    """Open the null device in the place of each standard descriptor that is closed, as ``</dev/null`` would."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):  # no descriptor, or no null device: it stays closed
                _open_null(number)


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(opened, True)
        return
    try:
        if opened not in STANDARD:  # another thread has opened something meanwhile, which stays what it is
            return
        os.dup2(opened, number, inheritable=True)
    finally:
        os.close(opened)


def above_standard(descriptor: int) -> int:
    """Return a descriptor of the same open file that is none of the standard ones; one that is, is closed.

    Raises:
        OSError: There are no more descriptors; the one that was given is closed.
    """
    if descriptor not in STANDARD or fcntl is None:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, STANDARD[-1] + 1)
    finally:
        os.close(descriptor)
