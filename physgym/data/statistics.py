"""Statistics per component of a field, block by block, so that they can be merged and kept while a dataset grows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.errors import SampleError
from physgym.sample import Field, SampleSpec, present
from physgym.spaces import Array


def real_fields(spec: SampleSpec) -> list[Field]:
    """Return the fields that have statistics: numbers and flags but complex ones, of which these say too little."""
    return [field for field in spec.values() if field.dtype.kind in "biuf"]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the values of a field, per component, over samples.

    Values that are not finite, and those that are not there by the mask of a padded field, are left out, each for
    itself: the other components of its sample count.

    Attributes:
        count: Number of samples all of whose values are there.
        mean: Shape of the field, float64; zero where a component has no value in any sample.
        std: Standard deviation (of the population), shape of the field, float64; also zero there.
        min: Smallest value, shape of the field, float64; infinite where there is none.
        max: Largest value, shape of the field, float64; minus infinite where there is none.
        partial: Number of values of each component, shape of the field; None where it is `count` for all of them.
    """

    count: int
    mean: Array
    std: Array
    min: Array
    max: Array
    partial: Array | None = None

    @property
    def counts(self) -> Array:
        """Return number of values of each component, shape of the field, int64."""
        return np.full(np.shape(self.mean), self.count, np.int64) if self.partial is None else self.partial

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Statistics:
        """Return the statistics of no samples."""
        return cls(0, np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf))

    @classmethod
    def of(cls, values: Array, present: Array | None = None) -> Statistics:
        """Compute the statistics of values of a field, shape (n, *field shape), n >= 0; or of those that are present.

        Args:
            values: The values.
            present: Flags that broadcast to their shape; see `physgym.sample.present`.
        """
        accumulator = Accumulator(values.shape[1:], values.dtype)
        accumulator.add(values, present)
        return accumulator.total

    def merge(self, other: Statistics) -> Statistics:
        """Merge the statistics of two sets of samples, by the update of Chan, Golub and LeVeque (1979)."""
        count, counts, weight = self.count + other.count, None, np.float64(0.0)
        if self.partial is not None or other.partial is not None:
            counts = self.counts + other.counts
            weight = other.counts / np.maximum(counts, 1)
        elif count == 0:
            return self
        else:
            weight = np.float64(other.count / count)
        with np.errstate(over="ignore", invalid="ignore"):  # values near the end of double precision have no variance
            delta = other.mean - self.mean
            mean = self.mean + weight * delta
            variance = (1 - weight) * self.std**2 + weight * other.std**2 + weight * (1 - weight) * delta**2
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)
        return Statistics(count, mean, np.sqrt(variance), low, high, counts)


Read = Callable[[str, int, int], Array]  # rows of a field, by its name and their range


def collect(spec: SampleSpec, count: int, read: Read, at_once: int) -> dict[str, Statistics]:
    """Compute statistics of the real-valued fields of stored samples, by name.

    Args:
        spec: Their fields; the masks of padded ones are applied.
        count: How many samples there are.
        read: What reads rows of a field.
        at_once: Bytes to read at a time.
    """
    found = {}
    for field in real_fields(spec):
        accumulator = Accumulator(field.shape, field.dtype)
        step = accumulator.block * max(1, at_once // max(1, accumulator.block * field.nbytes))
        for start in range(0, count, step):
            stop = min(count, start + step)
            here = present_rows(spec, field, read, start, stop)
            accumulator.add(read(field.name, start, stop), here, last=stop == count)
        found[field.name] = accumulator.total
    return found


def of_samples(spec: SampleSpec, names: Iterable[str], samples: Mapping[str, Array]) -> dict[str, Statistics]:
    """Compute statistics of some fields of samples in memory, by name; the masks of padded ones are applied.

    Raises:
        SampleError: The mask of a field is not among the samples.
    """
    found = {}
    for name in names:
        check_mask(spec[name], [field for field in samples if field in spec])
        rows = len(samples[name])
        here = present_rows(spec, spec[name], lambda other, start, stop: samples[other][start:stop], 0, rows)
        found[name] = Statistics.of(samples[name], here)
    return found


def check_mask(field: Field, names: Collection[str]) -> None:
    """Raise SampleError where a field is padded, and its mask is not among the names of the fields that are there."""
    if field.mask and field.mask not in names:
        raise SampleError(
            f"field {field.name!r} is padded, and which of its values are there is said by its mask {field.mask!r}, "
            f"which is not among the fields {list(names)}: its statistics would be those of the padding too. Load "
            f"{field.mask!r} as well (add it to `fields`)"
        )


def present_rows(spec: SampleSpec, field: Field, read: Read, start: int, stop: int) -> Array | None:
    """Tell which values of rows of a field are there by its mask; None for a field without one."""
    mask = spec.get(field.mask)
    return None if mask is None else present(field, mask, read(mask.name, start, stop))


def merged(parts: Iterable[Mapping[str, Statistics]], spec: SampleSpec) -> dict[str, Statistics]:
    """Compute statistics over several sets of samples, by real-valued field."""
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

    def add(self, values: Array, present: Array | None = None, *, last: bool = True) -> None:
        """Take in further rows, shape (n, *field shape), n >= 0.

        Args:
            values: They follow those taken in so far, of which there are whole blocks.
            present: Which of them count, flags that broadcast to their shape; all by default.
            last: Whether to take in the rest that does not fill a block as well; then no more may follow.
        """
        rows = self._rows(values, present)
        stop = len(rows) if last else len(rows) // self.block * self.block
        # nothing is called between both assignments: whatever interrupts this, no row counts twice
        self.total, self.rows = self._merged(rows[:stop]), self.rows + stop

    def with_rest(self, values: Array, present: Array | None = None) -> Statistics:
        """Compute statistics with fewer rows than a block at the end, which are not taken in."""
        return self._merged(self._rows(values, present))

    def _rows(self, values: Array, present: Array | None) -> Array:
        """Return values as rows of components; those that do not count are NaN."""
        if present is not None and not present.all():
            kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
            values = np.where(present, values.astype(kind, copy=False), kind.type(np.nan))
        return np.reshape(values, (len(values), self._size))

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
        if not np.isfinite(variance).all() and not (finite := np.isfinite(rows)).all():
            return self._of_finite(rows, finite)
        moments = (np.reshape(column, self._shape) for column in (mean, np.sqrt(variance), low, high))
        return Statistics(len(rows), *moments)

    def _of_finite(self, rows: Array, finite: Array) -> Statistics:
        """Compute statistics of a block by the finite values of each component."""
        counts = finite.sum(0)
        number = np.maximum(counts, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            shift = np.where(counts, rows[finite.argmax(0), np.arange(rows.shape[1])], 0).astype(np.float64)
            difference = np.where(finite, rows - shift, 0.0)
            mean = difference.sum(0) / number
            variance = np.maximum((difference**2).sum(0) / number - mean**2, 0.0)
        low, high = np.where(finite, rows, np.inf).min(0), np.where(finite, rows, -np.inf).max(0)
        parts = (mean + shift, np.sqrt(variance), low, high)
        mean, std, low, high = (np.reshape(part, self._shape).astype(np.float64) for part in parts)
        return Statistics(int(finite.all(1).sum()), mean, std, low, high, np.reshape(counts, self._shape))

    def _moments(self, rows: Array, work: np.dtype[Any], fold: int) -> tuple[Array, ...]:
        parts = [_moments(rows[:, i : i + COLUMNS], work, fold) for i in range(0, max(1, self._size), COLUMNS)]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _moments(rows: Array, dtype: np.dtype[Any], fold: int) -> tuple[Array, Array, Array, Array]:
    """Compute mean, variance, smallest and largest value of each column, float64; rows has shape (n, columns)."""
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
    """Sum columns, float64."""
    total = np.zeros(wide.shape[1])
    for start in range(0, len(wide), EXACT):
        total += np.add.reduce(wide[start : start + EXACT], 0)
    return total
