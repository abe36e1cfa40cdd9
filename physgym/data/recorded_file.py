"""`RecordedFile`: a file for HDF5 to read, that notes which of its bytes were read."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

INVERTED = bytes(255 - byte for byte in range(256))
ByteRange = tuple[int, int]  # of bytes: the first one and the end


class RecordedFile(io.RawIOBase):
    """A file that is open for reading, as `h5py.File` takes it.

    Args:
        handle: Its descriptor, which stays open.
        size: Its bytes.
        inverted: Bytes that are read as others, to see that nothing depends on them.
    """

    def __init__(self, handle: int, size: int, inverted: Sequence[ByteRange] = ()) -> None:
        self._handle, self._size, self._inverted = handle, size, inverted
        self._position = 0
        self._reads: list[ByteRange] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place and return it."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def readinto(self, target: Any) -> int:
        """Fill a buffer with the next bytes; return how many these are.

        Raises:
            OSError: There are not so many, or the disk refuses.
        """
        whole, start = memoryview(target).cast("B"), self._position
        rest = whole
        while rest:
            got = os.preadv(self._handle, [rest], self._position)
            if not got:
                raise OSError(f"it ends {len(rest)} bytes early")
            rest, self._position = rest[got:], self._position + got
        self._reads.append((start, self._position))
        for begin, end in self._inverted:
            if begin < self._position and end > start:
                part = whole[max(0, begin - start) : end - start]
                part[:] = bytes(part).translate(INVERTED)
        return self._position - start

    def bytes_at(self, at: int, size: int) -> bytes:
        """Return bytes of the file.

        Raises:
            ValueError: There are not so many.
        """
        if at >= 1 << 62:
            raise ValueError("an address in it is damaged")
        found = bytearray(max(0, min(size, self._size - at)))
        self.seek(at)
        self.readinto(found)
        if len(found) < size:
            raise ValueError("it ends early")
        return bytes(found)

    @property
    def reads(self) -> list[ByteRange]:
        """Return the ranges of bytes that were read, first one and end, in order; those that touch are one."""
        found: list[ByteRange] = []
        for start, stop in sorted(self._reads):
            if found and start <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], stop)
            else:
                found.append((start, stop))
        return found
