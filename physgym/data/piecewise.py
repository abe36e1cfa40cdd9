"""Writing bytes at a place of a file, in pieces."""

from __future__ import annotations

import errno
import os

import numpy as np

from physgym.spaces import Array

PIECE = 1 << 16  # bytes of a write; for larger ones the page cache takes larger pages, which are slow to come by


def pwrite_all(handle: int, array: Array, offset: int) -> None:
    """Write a C-contiguous array at a place of a file."""
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(handle, rest[:PIECE], offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, offset = rest[written:], offset + written
