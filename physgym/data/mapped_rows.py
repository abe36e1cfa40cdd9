"""`MappedRows`: rows of an open partition as arrays that lie in its file, so that a commit is a store of 8 bytes."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import platform
import sys

import numpy as np

from physgym.data.layout import SAMPLES
from physgym.data.partition import Partition
from physgym.data.piecewise import PIECE, pwrite_all
from physgym.spaces import Array
from physgym.system.file_systems import file_system_of
from physgym.system.shared_memory import ORDERED

# Rows that were written once have their place on the disk for good. Where files are copied on write, as on btrfs, zfs
# and xfs with reflinks, a store may need another place, and a full disk would be the end of the process
IN_PLACE = {"ext4", "tmpfs"}
LINE = 64  # bytes of a line of the processor's caches, of which 8 are stored at once
ZEROS = np.zeros(PIECE, np.uint8)


class MappedRows:
    """The samples of an open partition as arrays, and their number, in a map of its file.

    A row is stored behind those that are written, and the number last. The disk has room for what is ready: it was
    written once, as zeros, which fails as any write does; a store into a hole of a full disk would be a signal.

    Args:
        partition: The partition.
        handle: Its file, open to read and write.

    Attributes:
        partition: The partition.
        table: The samples.
        columns: By dataset name, shape (capacity, *row shape).
        ready: Rows for which the disk has room.
    """

    def __init__(self, partition: Partition, handle: int) -> None:
        self.partition, self.table = partition, partition.tables[SAMPLES]
        self._handle = handle
        self._map = mmap.mmap(handle, os.fstat(handle).st_size)
        self.columns = {name: self._column(name) for name in self.table.columns}
        counter = self.table.counter
        assert counter is not None
        self._counter = memoryview(self._map)[counter : counter + 8].cast("Q")
        self.ready = self._left = 0

    @staticmethod
    def possible(partition: Partition, handle: int) -> bool:
        """Return whether rows can be stored in this way here.

        The processor must keep the order of stores, the file system the place of what is written, and the values must
        lie in the file as in memory, which texts do not.
        """
        table = partition.tables[SAMPLES]
        return (
            sys.platform == "linux"
            and sys.byteorder == "little"
            and platform.machine().lower() in ORDERED
            and table.counter is not None
            and table.counter % LINE <= LINE - 8
            and all(column.offset is not None and column.dtype.kind != "U" for column in table.columns.values())
            and file_system_of(handle) in IN_PLACE
        )

    def _column(self, name: str) -> Array:
        column, capacity = self.table.columns[name], self.table.capacity
        count = capacity * math.prod(column.shape)
        if not count:
            return np.empty((capacity, *column.shape), column.dtype)
        assert column.offset is not None
        return np.frombuffer(self._map, column.dtype, count, column.offset).reshape(capacity, *column.shape)

    def extend(self, rows: int, least: int) -> None:
        """Make rows ready behind those that are written, and give the memory of committed ones back to the system.

        Args:
            rows: How many, as far as they fit.
            least: So many that are ready already are enough.

        Raises:
            OSError: The disk has no room for them.
        """
        start = max(self.ready, self.table.written)
        stop = min(self.table.capacity, self.table.written + rows)
        if start - self.table.written >= least:
            return
        for column in self.table.columns.values():
            assert column.offset is not None
            pwrite_zeros(self._handle, column.offset + start * column.row, (stop - start) * column.row)
            first, last = (column.offset + row * column.row for row in (self._left, self.table.count))
            first, last = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                with contextlib.suppress(OSError):  # as of a process that has locked its memory
                    self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
        self.ready, self._left = stop, self.table.count

    def commit(self) -> None:
        """Let all rows that are written count."""
        written = self.table.written
        self._counter[0] = written
        self.table.count = written


def pwrite_zeros(handle: int, offset: int, size: int) -> None:
    """Write zeros at a place of a file."""
    for start in range(0, size, len(ZEROS)):
        pwrite_all(handle, ZEROS[: size - start], offset + start)
