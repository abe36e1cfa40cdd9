"""Slots of shared memory in which the samples of a rollout stay where a worker has gathered them.

A worker gathers the samples of a part of its answer in a free slot, and its message names the slot. The parent reads
them there, and frees the slot when nobody refers to their arrays any more. Where no slot is free, samples are sent.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from physgym.errors import ProtocolError
from physgym.protocol.buffers import ALIGNMENT, Layout
from physgym.sample import Sample
from physgym.spaces import Array
from physgym.system.shared_memory import is_shareable

PART_BYTES = 3 << 20  # samples of a rollout are sent as soon as there are so many bytes of them
SMALLEST, LARGEST = 1 << 12, 1 << 23  # bytes of a sample for which there are slots: others are cheap, or take much
SLOTS, BYTES = 32, 48 << 20  # of a worker, at most
FIRST = 1 << 44  # where they begin in the memory, far behind the rows of environments; what is between takes no room
FREE, TAKEN, HELD = range(3)  # a slot is taken by the worker until its parent holds it
READY = SLOTS  # byte of the first page, behind those of the slots, that is not 0 where the parent reads them

_forks = 0  # grows with each fork of this process, and in the fork


def rows_of_part(row: int) -> int:
    """Return how many samples of so many bytes a part of a rollout has at most."""
    return 1 + PART_BYTES // max(1, row)


class SampleSlots:
    """The slots of a worker.

    Their pages are made when they are taken for the first time.

    Args:
        file: Descriptor of the shared memory.
        worker: Index of the worker.
        samples: Layout of a sample.

    Raises:
        OSError: The memory cannot be mapped.
        ValueError: There is no room for them in the memory, which the parent makes.
    """

    def __init__(self, file: int, worker: int, samples: Layout) -> None:
        self._file, self._samples, self._rows = file, samples, rows_of_part(samples.row)
        self._nbytes = _whole(sum(_whole(self._rows * leaf.nbytes, ALIGNMENT) for leaf in samples.leaves))
        self._count = min(SLOTS, max(2, BYTES // self._nbytes))
        self._first = FIRST + worker * (mmap.PAGESIZE + SLOTS * self._nbytes)
        self._size = mmap.PAGESIZE + self._count * self._nbytes
        self._make_room()
        self._memory = np.frombuffer(mmap.mmap(file, self._size, offset=self._first), np.uint8)
        self._states = memoryview(self._memory)[: self._count]  # type: ignore[arg-type]

    def _make_room(self) -> None:
        """Make sure that the memory reaches as far as the slots, where this is the end that does so."""

    def _place(self, number: int) -> slice:
        start = mmap.PAGESIZE + number * self._nbytes
        return slice(start, start + self._nbytes)

    def _arrays(self, memory: Array, rows: int) -> Sample:
        """Return the fields of so many samples in a slot, shape (rows, *field shape)."""
        found, offset = {}, 0
        for leaf in self._samples.leaves:
            values = memory[offset : offset + rows * leaf.nbytes].view(leaf.dtype)
            found[leaf.path] = values.reshape(rows, *leaf.shape)
            offset += _whole(self._rows * leaf.nbytes, ALIGNMENT)
        return found


class SlotWriter(SampleSlots):
    """The slots of a worker at its own end."""

    def __init__(self, file: int, worker: int, samples: Layout) -> None:
        super().__init__(file, worker, samples)
        if not self._memory[READY]:
            raise ValueError("the parent does not read slots")
        self._made: set[int] = set()  # slots that have their pages
        self._unsent: set[int] = set()

    def begin(self) -> None:
        """Free what was taken for an answer that was never sent, at the beginning of another one."""
        for number in self._unsent:
            self._states[number] = FREE
        self._unsent.clear()

    def take(self) -> tuple[int, Sample] | None:
        """Take a free slot; return its number and its fields, of as many samples as a part has, or None without one."""
        number = self._states.tobytes().find(FREE)
        if number < 0:
            return None
        place = self._place(number)
        if number not in self._made:
            try:  # or a full memory would be a signal
                os.posix_fallocate(self._file, self._first + place.start, self._nbytes)
            except OSError:
                return None
            self._made.add(number)
        self._states[number] = TAKEN
        self._unsent.add(number)
        return number, self._arrays(self._memory[place], self._rows)

    def sent(self, number: int) -> None:
        """Take note that a message names a slot: its parent frees it."""
        self._unsent.discard(number)


class SlotReader(SampleSlots):
    """The slots of a worker at the end of its parent; made for each process of a worker before it is asked anything."""

    def __init__(self, file: int, worker: int, samples: Layout) -> None:
        super().__init__(file, worker, samples)
        for number in range(self._count):
            if self._states[number] == TAKEN:  # by a process before this one, which has ended
                self._states[number] = FREE
        self._memory[READY] = 1

    @staticmethod
    def pay(samples: Layout) -> bool:
        """Return whether samples are so large, and the machine such, that there are slots for them."""
        return SMALLEST <= samples.row <= LARGEST and is_shareable()

    def _make_room(self) -> None:
        if os.fstat(self._file).st_size < self._first + self._size:
            os.ftruncate(self._file, self._first + self._size)

    def hold(self, number: int, rows: int) -> Sample:
        """Return the samples of a slot, which is free as soon as nobody refers to their arrays.

        Args:
            number: Which slot.
            rows: How many samples there are.

        Raises:
            ProtocolError: The worker has no such slot to give.
        """
        if not 0 <= number < self._count or self._states[number] != TAKEN or rows > self._rows:
            raise ProtocolError(f"there are no {rows} samples in slot {number} of the shared memory")
        self._states[number] = HELD
        return self._arrays(np.asarray(_HeldSlot(self._memory[self._place(number)], self._states, number)), rows)


class _HeldSlot:
    """The owner of the memory of arrays; it lives as long as they and their views.

    Where the process is forked in the meantime, the slot is held for good: the fork has the arrays too.
    """

    def __init__(self, memory: Array, states: memoryview, number: int) -> None:
        self._memory, self._states, self._number, self._forks = memory, states, number, _forks
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if self._forks == _forks:  # a fork reads the same memory, and nobody knows until when
            self._states[self._number] = FREE


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    # before and after: in between another thread may free a slot or get one
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork, after_in_child=_count_fork)


def _whole(size: int, unit: int = mmap.PAGESIZE) -> int:
    return -(-size // unit) * unit
