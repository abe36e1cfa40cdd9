"""The page cache: how much of some bytes of a file it holds, and reading mapped bytes into it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable

import numpy as np

CACHESTAT = 451  # number of the system call of Linux 6.5 and later, on all processors but Alpha
POPULATE_READ = 22  # advice of Linux 5.14 and later
SAMPLED = 256  # pages of a range that are looked at where the call is missing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def cached_fraction(handle: int, ranges: Iterable[tuple[int, int]]) -> float | None:
    """Return which fraction of some bytes of a file is in the page cache.

    Counts them where the kernel does (Linux 6.5), else looks at some pages.

    Args:
        handle: Descriptor of the open file.
        ranges: Offset and length of each range of bytes.

    Returns:
        From 0 to 1; None where the system does not say.
    """
    held = total = 0.0
    for offset, length in ranges:
        if length <= 0:
            continue
        found = _counted(handle, offset, length)
        if found is None:
            found = _sampled(handle, offset, length)
        if found is None:
            return None
        held, total = held + found * length, total + length
    return held / total if total else None


def _counted(handle: int, offset: int, length: int) -> float | None:
    """Return the fraction that `cachestat` counts; None without that call."""
    if not sys.platform.startswith("linux"):
        return None
    span, counts = (ctypes.c_uint64 * 2)(offset, length), (ctypes.c_uint64 * 5)()
    status = _libc.syscall(ctypes.c_long(CACHESTAT), handle, ctypes.byref(span), ctypes.byref(counts), 0)
    if status != 0:
        return None
    pages = (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
    return min(1.0, counts[0] / pages)


def _sampled(handle: int, offset: int, length: int) -> float | None:
    """Return the fraction of some pages that `mincore` finds; None where it does not say."""
    if not os.access(f"/dev/fd/{handle}", os.W_OK):  # of a file of others Linux says that all of it is there
        return None
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapped = mmap.mmap(handle, offset + length - begin, prot=mmap.PROT_READ, offset=begin)
    except (OSError, ValueError):
        return None
    with mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        pages = -(-len(mapped) // mmap.PAGESIZE)
        looked = range(0, pages, max(1, pages // SAMPLED))
        held, flag = 0, ctypes.c_ubyte()
        for page in looked:
            place = ctypes.c_void_p(address + page * mmap.PAGESIZE)
            if _libc.mincore(place, ctypes.c_size_t(1), ctypes.byref(flag)) != 0:
                return None
            held += flag.value & 1
    return held / len(looked)


def populate(address: int, size: int) -> bool:
    """Map the pages of a mapped file, reading them where the page cache lacks them; return whether that was done.

    Args:
        address: Where they begin in this process, at a whole page.
        size: How many bytes.
    """
    if not sys.platform.startswith("linux"):  # the number means something else there
        return False
    return bool(_libc.madvise(address, size, POPULATE_READ) == 0)
