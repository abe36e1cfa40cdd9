"""Statistics per component of a field, block by block, so that they can be merged and kept while a dataset grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.sample import Field, SampleSpec
from physgym.spaces import Array


def real_fields(spec: SampleSpec) -> list[Field]:
    """The fields that have statistics: numbers and flags that are not complex, for which these say too little."""
    return [field for field in spec.values() if field.dtype.kind in "biuf"]


@dataclass(frozen=True)
class Statistics:
    """What the values of a field are like, per component, over samples.

    Attributes:
        count: Number of samples; those with a value that is not finite are left out.
        mean: Shape of the field, float64.
        std: Standard deviation (of the population), shape of the field, float64.
        min: Smallest value, shape of the field, float64; infinite where there is no sample.
        max: Largest value, shape of the field, float64.
    """

    count: int
    mean: Array
    std: Array
    min: Array
    max: Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Statistics:
        """Of no samples."""
        return cls(0, np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf))

    @classmethod
    def of(cls, values: Array) -> Statistics:
        """Of all values of a field, shape (n, *field shape), n at least 0."""
        accumulator = Accumulator(values.shape[1:], values.dtype)
        accumulator.add(values)
        return accumulator.total

    def merge(self, other: Statistics) -> Statistics:
        """Of both sets of samples together, by the update of Chan, Golub and LeVeque (1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        weight = other.count / count
        with np.errstate(over="ignore", invalid="ignore"):  # values near the end of double precision have no variance
            delta = other.mean - self.mean
            mean = self.mean + weight * delta
            variance = (1 - weight) * self.std**2 + weight * other.std**2 + weight * (1 - weight) * delta**2
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Statistics(count, mean, np.sqrt(variance), low, high)


def merged(parts: Iterable[Mapping[str, Statistics]], spec: SampleSpec) -> dict[str, Statistics]:
    """Statistics over several sets of samples, by real-valued field."""
    total = {field.name: Statistics.empty(field.shape) for field in real_fields(spec)}
    for part in parts:
        total = {name: statistics.merge(part[name]) for name, statistics in total.items()}
    return total


COLUMNS = 2048  # components at a time: with the rows of a block they stay in the processor's cache
ROWS = 128  # rows of a block of a wide field; merging a block costs as much as a dozen rows
EXACT = 32  # rows whose sum is taken in single precision before it is continued in double
SMALLEST = 1e-30  # variance below which squares in single precision lose digits


class Accumulator:
    """Statistics of a field whose rows arrive in order.

    The rows are taken in blocks of a fixed size, so that the portions in which they arrive do not change a bit of the
    result. Within a block the first row is subtracted, which keeps all digits where the mean is large.

    Args:
        shape: Shape of the field.
        dtype: Its dtype, real-valued.

    Attributes:
        total: Statistics of the rows taken in.
        rows: How many these are, those with values that are not finite included.
        block: Rows of a block.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.total, self.rows = Statistics.empty(shape), 0
        self._shape, self._size = shape, int(np.prod(shape, dtype=np.int64))
        self._work = np.dtype(np.float32) if dtype in (np.float16, np.float32) else np.dtype(np.float64)
        # rows of a narrow field are laid side by side, since a loop over a few components costs as much as over many
        self._fold = 1
        while self._fold * self._size < COLUMNS // 2 and self._fold < COLUMNS:
            self._fold *= 2
        self.block = ROWS * self._fold

    def add(self, values: Array, *, last: bool = True) -> None:
        """Take in further rows, shape (n, *field shape), n >= 0.

        Args:
            values: They follow those taken in so far, of which there are whole blocks.
            last: Whether to take in the rest that does not fill a block as well; then no more may follow.
        """
        rows = np.reshape(values, (len(values), self._size))
        stop = len(rows) if last else len(rows) // self.block * self.block
        # nothing is called between both assignments: whatever interrupts this, no row counts twice
        self.total, self.rows = self._merged(rows[:stop]), self.rows + stop

    def with_rest(self, values: Array) -> Statistics:
        """Statistics with fewer rows than a block at the end, which are not taken in."""
        return self._merged(np.reshape(values, (len(values), self._size)))

    def _merged(self, rows: Array) -> Statistics:
        total = self.total
        whole, even = len(rows) // self.block * self.block, len(rows) // self._fold * self._fold
        for start, stop in (*((i, i + self.block) for i in range(0, whole, self.block)), (whole, even), (even, None)):
            if len(part := rows[start:stop]):
                total = total.merge(self._of_block(part))
        return total

    def _of_block(self, rows: Array) -> Statistics:
        fold = 1 if len(rows) % self._fold else self._fold
        mean, variance, low, high = self._moments(rows, self._work, fold)
        if self._work == np.float32 and not (np.isfinite(variance) & ((variance > SMALLEST) | (low == high))).all():
            mean, variance, low, high = self._moments(rows, np.dtype(np.float64), fold)
        if not np.isfinite(variance).all():
            kept = rows[np.isfinite(rows).all(1)]
            if len(kept) < len(rows):
                return self._of_block(kept) if len(kept) else Statistics.empty(self._shape)
        moments = (np.reshape(column, self._shape) for column in (mean, np.sqrt(variance), low, high))
        return Statistics(len(rows), *moments)

    def _moments(self, rows: Array, work: np.dtype[Any], fold: int) -> tuple[Array, ...]:
        parts = [_moments(rows[:, i : i + COLUMNS], work, fold) for i in range(0, max(1, self._size), COLUMNS)]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _moments(rows: Array, dtype: np.dtype[Any], fold: int) -> tuple[Array, Array, Array, Array]:
    """Mean, variance, smallest and largest value of each column, float64; rows has shape (n, columns)."""
    count, columns = rows.shape
    wide = rows.reshape(count // fold, fold * columns)
    low, high = (
        reduce(reduce(wide, 0).reshape(fold, columns), 0).astype(np.float64)
        for reduce in (np.minimum.reduce, np.maximum.reduce)
    )
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        shift = rows[0].astype(dtype)
        difference = np.subtract(wide, np.tile(shift, fold), dtype=dtype)
        mean = _sum(difference).reshape(fold, columns).sum(0) / count
        np.multiply(difference, difference, out=difference)
        square = _sum(difference).reshape(fold, columns).sum(0) / count
        return mean + shift, np.maximum(square - mean**2, 0.0), low, high


def _sum(wide: Array) -> Array:
    """Sums of columns, float64."""
    total = np.zeros(wide.shape[1])
    for start in range(0, len(wide), EXACT):
        total += np.add.reduce(wide[start : start + EXACT], 0)
    return total
