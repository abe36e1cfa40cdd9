"""`ReusedMemory`: memory of batches that is used again as soon as nobody refers to them."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np

from physgym.spaces import Array

ALIGNED = 64  # bytes, of which the address of a tensor that torch makes is a multiple
LARGEST = 32 << 20  # bytes of a piece that is kept


class ReusedMemory:
    """Memory for arrays of the same sizes, again and again.

    Memory that is new to a process costs as much as what is copied into it: the system clears each page. An array, its
    views and the tensors that share its memory keep it. It is used for another array when the last of them is gone,
    where it would be freed otherwise.

    Args:
        pieces: Number of pieces of memory that wait to be used again, at most.
    """

    def __init__(self, pieces: int) -> None:
        # no lock: a piece comes back in whatever thread, in the middle of whatever, and each call of a deque is whole
        self._free: deque[Array] = deque(maxlen=pieces)
        self._self = weakref.ref(self)

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[int]]:
        """Return what makes a copy, which has memory of its own."""
        return ReusedMemory, (self._free.maxlen or 0,)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array with any values, aligned as torch aligns.

        Args:
            shape: Its shape.
            dtype: Its dtype.
        """
        size = math.prod(shape) * dtype.itemsize
        memory = self._take(size + ALIGNED)
        if memory is None:
            memory = np.empty(size + ALIGNED, np.uint8)
        first = -memory.ctypes.data % ALIGNED
        return np.asarray(_Lease(memory, self._self))[first : first + size].view(dtype).reshape(shape)

    def take_back(self, memory: Array) -> None:
        """Keep memory for another array, unless it is large; the piece that was kept longest makes room."""
        if len(memory) <= LARGEST:
            self._free.append(memory)

    def _take(self, size: int) -> Array | None:
        """Return the piece of a size that came back last, which caches may still hold; None if there is none."""
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()
            except IndexError:  # another thread took it
                return None
            if len(memory) == size:
                return memory
            self._free.appendleft(memory)
        return None


class _Lease:
    """The owner of the memory of an array; it lives as long as the array, its views and their tensors.

    Arrays are not traversed by the collector of cycles: a lease dies after all that could show its memory.
    """

    def __init__(self, memory: Array, reused: weakref.ref[ReusedMemory]) -> None:
        self.memory, self._reused = memory, reused  # not freed before it, whatever happens at the end of the process
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        reused = self._reused()
        if reused is not None:
            reused.take_back(self.memory)
