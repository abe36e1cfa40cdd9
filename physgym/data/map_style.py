"""`MapStyle`: items by their index, for what gathers and reads many of them at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from physgym.data.indices import as_number
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array

AT_ONCE = 1 << 20  # bytes that an iteration reads together


class MapStyle(ABC):
    """Items by their index, as `torch.utils.data.DataLoader` wants them.

    A subclass has `gather`, `read` and a length.

    Attributes:
        spec: The fields.
    """

    spec: SampleSpec

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def row_nbytes(self) -> int:
        """Return the bytes of one item, of the fields that are read."""
        return self.spec.nbytes

    @property
    def nbytes(self) -> int:
        """Return the bytes of all items, each with values of its own, of the fields that are read."""
        return len(self) * self.row_nbytes

    @abstractmethod
    def gather(
        self, indices: Any, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read the items at the given indices, stacked."""

    @abstractmethod
    def read(
        self, start: int, stop: int, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Read consecutive items, stacked."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | Array) -> Sample: ...

    def __getitem__(self, index: Any) -> Sample:
        """Return a sample; or, for a slice, indices or a mask, several, stacked as `gather` does."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self.read(start, max(start, stop)) if step == 1 else self.gather(np.arange(start, stop, step))
        if (number := as_number(index)) is None:
            return self.gather(index)
        index = number
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a dataset with {len(self)}")
        return {name: value[0] for name, value in self.gather(np.array([index % len(self)])).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return several samples at once, as `torch.utils.data.DataLoader` asks for them."""
        batch = self.gather(np.asarray(indices) if len(indices) else np.zeros(0, np.int64))
        columns = [(name, list(value)) for name, value in batch.items()]
        return [{name: column[i] for name, column in columns} for i in range(len(indices))]

    def __iter__(self) -> Iterator[Sample]:
        block = max(1, AT_ONCE // max(1, self.row_nbytes))
        for start in range(0, len(self), block):
            stop = min(len(self), start + block)
            columns = [(name, list(value)) for name, value in self.read(start, stop).items()]
            yield from ({name: column[i] for name, column in columns} for i in range(stop - start))
