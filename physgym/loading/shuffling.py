"""Orders of samples: functions of seed, epoch and rank alone."""

from __future__ import annotations

import math

import numpy as np

from physgym.loading.computed_order import CHUNK, ComputedPermutation
from physgym.spaces import Array

LISTED = 1 << 16  # samples up to which a random order is a list


class EpochOrder:
    """The indices of an epoch on one rank: every `world_size`-th sample of the order, from the `rank`-th on.

    Batches of n on each of w ranks hold together what a batch of n * w holds on one. Orders of more samples than
    `LISTED` are computed piece by piece, in no memory that grows with their number.

    Args:
        length: Number of samples.
        shuffle: Whether to shuffle all samples; otherwise they come in the order of the dataset.
        seed: Seed of the order.
        epoch: Number of the epoch.
        rank: Which of the equal parts of the order.
        world_size: Number of parts; fewer than this many samples are left out at the end.
        listed: Whether a random order is a list of any length, as physgym 0.1 made it.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
        listed: bool = False,
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._share = length // world_size
        self._list: Array | None = None
        self._computed: ComputedPermutation | None = None
        self._piece, self._first = np.empty(0, np.int64), 0  # what was computed last, and its first place
        if shuffle and is_computed(length, listed=listed):
            self._computed = ComputedPermutation(length, (seed, epoch))
        elif shuffle:
            stop = self._share * world_size
            self._list = np.ascontiguousarray(permutation(length, (seed, epoch))[rank:stop:world_size])

    def __len__(self) -> int:
        return self._share

    def indices(self, start: int, stop: int) -> Array:
        """Return the samples from one place of the rank's part to another, shape (stop - start,), int64.

        Args:
            start: The first place.
            stop: The place after the last, at most the length.
        """
        if self._list is not None:
            return self._list[start:stop]
        if self._computed is None:
            return self._places(start, stop)
        if start < self._first or stop > self._first + len(self._piece):
            self._first = start
            self._piece = self._computed.at(self._places(start, min(max(stop, start + CHUNK), self._share)))
        return self._piece[start - self._first : stop - self._first]

    def _places(self, start: int, stop: int) -> Array:
        step = self._world_size
        return np.arange(self._rank + start * step, self._rank + stop * step, step)


def is_computed(length: int, *, listed: bool) -> bool:
    """Return whether a random order of so many samples is computed; `listed` as for an `EpochOrder`."""
    return length > LISTED and not listed


def permutation(length: int, seed: tuple[int, ...]) -> Array:
    """Return the numbers below `length` in random order, shape (length,), int64.

    Sorts random numbers that carry the index in their low bits. That goes through the memory in order, so it takes a
    third of the time of `numpy.random.Generator.permutation`, which would take half as long as gathering small samples.
    """
    bits = np.uint64(length.bit_length())
    keys = np.random.default_rng(seed).integers(0, 2**64, length, np.uint64)
    keys <<= bits
    keys |= np.arange(length, dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    return keys.view(np.int64)


def windows(
    length: int, *, shuffle: bool, seed: int, epoch: int, block: int, window: int, rank: int = 0, world_size: int = 1
) -> list[Array]:
    """Return runs of consecutive samples that are read one after the other in an epoch on one rank.

    Args:
        length: Number of samples.
        shuffle: Whether to permute the blocks.
        seed: Seed of the order.
        epoch: Number of the epoch.
        block: Samples per block.
        window: Blocks per window, at most.
        rank: Which of the equal parts of the order.
        world_size: Number of parts; fewer than this many samples are left out at the end.

    Returns:
        For each window the runs in it, first sample and the one after the last, shape (runs, 2), int64. A run is a
        block, or at the borders of a rank's part a piece of one.
    """
    share = length // world_size
    starts = np.arange(0, length, block)
    if shuffle:
        starts = starts[permutation(len(starts), (seed, epoch))]
    sizes = np.minimum(block, length - starts)
    before = np.cumsum(sizes) - sizes  # samples of the order that come before each block
    low = np.maximum(rank * share - before, 0)
    high = np.minimum((rank + 1) * share - before, sizes)
    runs = np.stack([starts + low, starts + high], axis=1)[low < high]
    # of equal size: a short last window would mix its samples less
    return np.array_split(runs, max(1, math.ceil(len(runs) / window)))
