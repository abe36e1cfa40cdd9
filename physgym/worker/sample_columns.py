"""`SampleColumns`: the samples of an episode as they are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from physgym.protocol.sample_slots import SlotWriter
from physgym.sample import InfoKey, Sample, SampleSpec


class SampleColumns:
    """Samples as they are gathered into columns.

    What fits is copied as it comes, so that an environment may use its arrays again; the rest is checked as
    `SampleSpec.check` does. Whether values are finite is left for `nonfinite`, since it is cheap for many rows at once.

    Args:
        spec: Their fields.
        capacity: Rows for which there is memory at first.
        of: Which entry of the info they are, for an error.
        slots: Memory for `capacity` rows that is shared; None without any.

    Attributes:
        slot: Where the rows are in it; None where they are not.
    """

    def __init__(
        self, spec: SampleSpec, capacity: int = 16, of: InfoKey = "sample", slots: SlotWriter | None = None
    ) -> None:
        self.spec, self._slots = spec, slots
        self.slot: int | None = None
        self._of = of
        self._first = capacity
        self._capacity = 0
        self._count = 0
        self._fields: list[tuple[str, Any, tuple[int, ...], np.dtype[Any], type | None, type | None]] = []
        self._columns: Sample = {}

    def __len__(self) -> int:
        return self._count

    def add(self, sample: Mapping[str, Any], episode: int, step: int | None = None) -> None:
        """Take one sample of a step, or what belongs to an episode.

        Raises:
            SampleError: It does not fit its declaration; no row is added.
        """
        row = self._count
        if row == self._capacity:
            self._grow()
        if sample.__class__ is dict and len(sample) == len(self._fields):
            get, ndarray = sample.get, np.ndarray
            for name, column, shape, dtype, scalar, other in self._fields:
                value: Any = get(name)
                kind = value.__class__
                if kind is ndarray:
                    if value.dtype != dtype or value.shape != shape:
                        break
                elif kind is not scalar and kind is not other:
                    break
                column[row] = value
            else:
                self._count = row + 1
                return
        where = f"episode {episode}" if step is None else f"episode {episode}, step {step}"
        checked = self.spec.check(sample, where, finite=False, of=self._of)
        for name, value in checked.items():
            self._columns[name][row] = value
        self._count = row + 1

    def following(self) -> SampleColumns:
        """Return columns of the same form, in memory of their own, for further samples."""
        return SampleColumns(self.spec, self._first, self._of, self._slots)

    def sent(self) -> int | None:
        """Take note that the rows are sent; return the slot in which they are, which is not this end's any more."""
        if self._slots is None or self.slot is None or not self._count:
            return None
        self._slots.sent(self.slot)
        return self.slot

    def last(self) -> Sample:
        """Return the row that was added last, as views."""
        return {name: column[self._count - 1] for name, column in self._columns.items()}

    def cut(self, count: int) -> None:
        """Forget all rows but the first `count`."""
        self._count = count

    def result(self) -> Sample:
        """Return the fields of shape (n, *field shape), as views."""
        if not self._fields:
            return {field.name: np.empty((0, *field.shape), field.dtype) for field in self.spec.values()}
        return {name: column[: self._count] for name, column in self._columns.items()}

    def nonfinite(self) -> int | None:
        """Return the first row that holds a value that is not finite, None if there is none."""
        first: int | None = None
        for name, column in self.result().items():
            if self.spec[name].dtype.kind in "fc" and not (good := np.isfinite(column)).all():
                row = int(np.argmin(good.reshape(len(column), -1).all(axis=1)))
                first = row if first is None else min(first, row)
        return first

    def _grow(self) -> None:
        found = None if self._slots is None or self._capacity else self._slots.take()
        self.slot, memory = (None, {}) if found is None else found
        self._capacity = 2 * self._capacity or self._first
        fields = []
        for field in self.spec.values():
            column = memory.get(field.name)
            if column is None:
                column = np.empty((self._capacity, *field.shape), field.dtype)
            if field.name in self._columns:
                column[: self._count] = self._columns[field.name]
            self._columns[field.name] = column
            scalar = None if field.shape else field.dtype.type
            other = float if scalar is np.float64 else scalar
            fields.append((field.name, column, field.shape, field.dtype, scalar, other))
        self._fields = fields
