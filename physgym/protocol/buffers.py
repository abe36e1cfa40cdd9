"""The arrays that a vector env and its workers share: actions one way, slots of results the other way.

On one host the arena is shared memory, and a message is but a doorbell. Elsewhere both ends have an arena of their own,
and messages carry the rows.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from physgym.errors import ProtocolError
from physgym.spaces import Array, Leaf

ALIGNMENT = 64  # of an array: a cache line, so that two workers do not write to one
SLOTS = 2  # most sets of results: with two they stay as they are until the step after the next
REWARD, FLAG = np.dtype("<f8"), np.dtype("?")
IDLE = -1  # in `Arena.current_env`: no environment is being stepped or reset

Buffer: TypeAlias = bytes | bytearray | memoryview


class Layout:
    """The bytes of a batch of values: array after array, each contiguous with the batch axis first.

    Args:
        leaves: All leaves of a space; those of variable size are left out.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.leaves = [leaf for leaf in leaves if not leaf.variable]
        self.row = sum(leaf.nbytes for leaf in self.leaves)

    def pack(self, arrays: Sequence[Array]) -> list[Buffer]:
        """Return buffers of the arrays, ready to be sent."""
        return [_contiguous(a, leaf).data.cast("B") for a, leaf in zip(arrays, self.leaves, strict=True) if a.size]

    def unpack(self, data: memoryview, count: int) -> list[Array]:
        """Return arrays of shape (count, *leaf shape) over the bytes, without a copy.

        Raises:
            ProtocolError: The length is wrong.
        """
        if len(data) != count * self.row:
            raise ProtocolError(f"expected {count * self.row} bytes of arrays, got {len(data)}")
        arrays, offset = [], 0
        for leaf in self.leaves:
            end = offset + count * leaf.nbytes
            arrays.append(np.frombuffer(data[offset:end], leaf.dtype).reshape(count, *leaf.shape))
            offset = end
        return arrays


def _contiguous(array: Array, leaf: Leaf) -> Array:
    if array.shape[1:] != leaf.shape:
        raise ProtocolError(f"array {leaf.path!r} has shape {array.shape[1:]}, the space says {leaf.shape}")
    return np.ascontiguousarray(array, leaf.dtype)


def results_layout(observations: Layout) -> Layout:
    """Return the layout of the results of a step: observations, rewards, terminations, truncations."""
    scalars = [Leaf("rewards", (), REWARD), Leaf("terminations", (), FLAG), Leaf("truncations", (), FLAG)]
    return Layout([*observations.leaves, *scalars])


@dataclass(frozen=True)
class Slot:
    """Results of environments, one row each.

    Attributes:
        observations: One array per fixed leaf of the observation space, shape (rows, *leaf shape).
        rewards: Shape (rows,), float64.
        terminations: Shape (rows,), bool.
        truncations: Shape (rows,), bool.
    """

    observations: list[Array]
    rewards: Array
    terminations: Array
    truncations: Array

    @property
    def arrays(self) -> list[Array]:
        """Return all arrays, in the order of `results_layout`."""
        return [*self.observations, self.rewards, self.terminations, self.truncations]

    def rows(self, part: slice) -> Slot:
        """Return a view of some rows."""
        return Slot(
            [array[part] for array in self.observations],
            self.rewards[part],
            self.terminations[part],
            self.truncations[part],
        )

    def copy_rows(self, source: Slot, rows: Any) -> None:
        """Copy rows of another slot."""
        for mine, theirs in zip(self.arrays, source.arrays, strict=True):
            mine[rows] = theirs[rows]


class Arena:
    """Actions and results of a number of environments over one buffer.

    Args:
        actions: Layout of the actions.
        results: Layout of the results.
        rows: Number of environments.
        slots: How many sets of results.
        file: Descriptor of the shared memory, at least `size` bytes long; None for memory of this process alone.

    Attributes:
        actions: One array per fixed leaf of the action space, shape (rows, *leaf shape).
        slots: The sets of results.
        current_env: Shape (rows,), int32: in element w, the environment that worker w steps or resets, else `IDLE`.
        bytes: Its size.
    """

    def __init__(self, actions: Layout, results: Layout, rows: int, slots: int, file: int | None = None) -> None:
        self.bytes = size = self.size(actions, results, rows, slots)
        # mapped at once: a page that is first touched in a step costs as much as stepping a cheap environment
        populate = getattr(mmap, "MAP_POPULATE", 0)
        buffer = bytearray(size) if file is None else mmap.mmap(file, size, flags=mmap.MAP_SHARED | populate)
        offset = 0

        def take(leaf: Leaf) -> Array:
            nonlocal offset
            count = rows * int(np.prod(leaf.shape, dtype=np.int64))
            array = np.frombuffer(buffer, leaf.dtype, count, offset).reshape(rows, *leaf.shape)
            offset += _aligned(rows * leaf.nbytes)
            return array

        self.current_env = take(Leaf("current_env", (), np.dtype("<i4")))
        self.actions = [take(leaf) for leaf in actions.leaves]
        self.slots: list[Slot] = []
        for _ in range(slots):
            *observations, rewards, terminations, truncations = (take(leaf) for leaf in results.leaves)
            self.slots.append(Slot(observations, rewards, terminations, truncations))

    def release(self) -> None:
        """Let go of the memory, which is given back once nobody has a view of it any more."""
        self.current_env = np.full(1, IDLE, "<i4")
        self.actions, self.slots = [], []

    @staticmethod
    def size(actions: Layout, results: Layout, rows: int, slots: int) -> int:
        """Return the bytes of an arena."""
        current_env = Leaf("current_env", (), np.dtype("<i4"))
        leaves = [current_env, *actions.leaves, *(leaf for _ in range(slots) for leaf in results.leaves)]
        return sum(_aligned(rows * leaf.nbytes) for leaf in leaves)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
