"""Writing bytes at a place of a file, in pieces."""

from __future__ import annotations

import errno
import os

import numpy as np

from physgym.spaces import Array

# Bytes of a write. The page cache takes pages as large as the write: small ones cost more each, and those of 2 MB are
# slow to come by, above all in a virtual machine whose free memory has been given back
PIECE = 1 << 18


def pwrite_all(handle: int, array: Array, offset: int) -> None:
    """Write a C-contiguous array at a place of a file."""
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(handle, rest[:PIECE], offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, offset = rest[written:], offset + written
