"""`Loadable`: the interface of samples that a loader reads, and what they may offer beyond it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array


class Gatherable(Protocol):
    """Samples from which batches are taken."""

    def __len__(self) -> int: ...

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """Return the samples at the indices, stacked."""
        ...


class Loadable(Gatherable, Protocol):
    """Samples that a `Loader` reads; `physgym.SampleDataset` is one.

    They may also be `BlockReadable`, `SaysRandomAccess`, `Mapped` and `Overlapping`, and take the argument ``out`` of
    ``gather``: arrays to fill, in memory where torch would lay them, pinned for a GPU. What others return is copied
    there.
    """

    @property
    def spec(self) -> SampleSpec:
        """Return the fields."""
        ...


@runtime_checkable
class BlockReadable(Protocol):
    """Samples that can be read block by block; others are gathered."""

    def read(self, start: int, stop: int, fields: Sequence[str] | None = None, out: Sample | None = None) -> Sample:
        """Return consecutive samples, stacked; in `out` if it is given."""
        ...


@runtime_checkable
class SaysRandomAccess(Protocol):
    """Samples that say whether they are fast to gather; others are taken to be."""

    @property
    def random_access(self) -> bool:
        """Return whether single samples are read as cheaply as their neighbours."""
        ...


@runtime_checkable
class Mapped(Protocol):
    """Samples in files that are mapped into memory."""

    def cached_fraction(self, fields: Sequence[str] | None = None) -> float | None:
        """Return how much of fields is in the page cache, from 0 to 1; None where the system does not say."""
        ...

    def populate(self, fields: Sequence[str] | None = None) -> Iterator[int]:
        """Read fields into the page cache and map their pages; yield 0 before a field, then the bytes of each piece."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """Samples that overlap where they are stored; others take the sum of their fields."""

    def stored_nbytes(self, fields: Sequence[str] | None = None) -> int:
        """Return the bytes that fields of all samples take."""
        ...


def fills_arrays(samples: Gatherable) -> bool:
    """Return whether ``gather`` of samples takes the argument ``out``: arrays to fill."""
    return "out" in inspect.signature(samples.gather).parameters


def has_random_access(samples: Loadable) -> bool:
    """Return whether single samples are read as cheaply as their neighbours."""
    return not isinstance(samples, SaysRandomAccess) or samples.random_access


def stored_nbytes(samples: Loadable, fields: Sequence[str]) -> int:
    """Return the bytes that fields of all samples take where they are stored."""
    if isinstance(samples, Overlapping):
        return samples.stored_nbytes(fields)
    return len(samples) * sum(samples.spec[name].nbytes for name in fields)
