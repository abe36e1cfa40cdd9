"""`Samples`: the interface of stored samples that a trainer trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from physgym.nn.scales import Moments
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array


class Samples(Protocol):
    """A stored set of samples; `physgym.SampleDataset` is one."""

    @property
    def spec(self) -> SampleSpec:
        """Return the fields."""
        ...

    @property
    def statistics(self) -> Mapping[str, Moments]:
        """Return the mean and standard deviation by field name, over these samples and no others."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """Return the samples at some indices, as `physgym.loading.loadable.Loadable`; shape (n, *shape)."""
        ...

    def split(self, validation_fraction: float, seed: int) -> tuple[Samples, Samples]:
        """Return training and validation samples that share no episode."""
        ...


@runtime_checkable
class IndexedSamples(Protocol):
    """Samples that have names, as those of a dataset do; others are trained on without."""

    def index(self, name: str) -> Array:
        """Return the "episode", "step" or another name of every sample, shape (n,), integer."""
        ...
