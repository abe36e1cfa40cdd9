"""Mini-batches of a dataset in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from physgym.errors import ConfigError
from physgym.sample import Sample
from physgym.spaces import Array


class Gatherable(Protocol):
    """What batches are taken from."""

    def __len__(self) -> int: ...

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """The samples at the indices, stacked."""
        ...


def order(length: int, *, shuffle: bool, seed: int, epoch: int) -> Array:
    """Indices of an epoch, shape (length,), int64: a function of seed and epoch alone."""
    if not shuffle:
        return np.arange(length)
    return np.random.default_rng((seed, epoch)).permutation(length)


def batches(
    dataset: Gatherable,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    fields: Sequence[str] | None = None,
) -> Iterator[Sample]:
    """The mini-batches of one epoch; the last one may be smaller.

    Args:
        dataset: What to read from.
        batch_size: Samples per batch.
        shuffle: Whether to shuffle; otherwise in the order of the dataset.
        seed: Seed of the order.
        epoch: Number of the epoch, so that each has an order of its own.
        fields: Only these fields.

    Yields:
        Field names to arrays of shape (batch, *field shape).

    Raises:
        ConfigError: The batch size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
    indices = order(len(dataset), shuffle=shuffle, seed=seed, epoch=epoch)
    for start in range(0, len(indices), batch_size):
        yield dataset.gather(indices[start : start + batch_size], fields)
