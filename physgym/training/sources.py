"""What a trainer trains on: stored samples, or a source that produces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from physgym.nn.transforms import Moments
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array


class Samples(Protocol):
    """A stored set of samples; `physgym.SampleDataset` is one."""

    @property
    def spec(self) -> SampleSpec:
        """The fields."""
        ...

    @property
    def statistics(self) -> Mapping[str, Moments]:
        """Mean and standard deviation by field name, over these samples and no others."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Array, fields: Sequence[str] | None = None) -> Sample:
        """Return the samples at some indices, as `physgym.loading.epoch_reader.Loadable`; shape (n, *shape)."""
        ...

    def split(self, validation_fraction: float, seed: int) -> tuple[Samples, Samples]:
        """Training and validation samples that share no episode."""
        ...


class SampleSource(Protocol):
    """What produces samples while training; `physgym.generation.stream.SampleStream` is one.

    Where it has them, the trainer also uses ``stored`` (how many samples are stored, those of an earlier run included;
    the first epoch draws what is missing), ``drawn`` (episodes and steps of the last batch, for messages),
    ``state_dict`` and ``load_state_dict`` (the position after the last batch, to resume it; an empty state is the
    beginning), ``predictor`` (what answers simulations that ask for a prediction; set where it is None), ``metrics()``
    (figures that enter the record of every epoch), and ``hurry()`` (called before `close` after Ctrl-C, when nothing
    that takes long shall be waited for).
    """

    @property
    def spec(self) -> SampleSpec:
        """The fields."""
        ...

    def draw(self, batch_size: int) -> Sample:
        """The next samples, as soon as there are so many: fields of shape (batch_size, *shape)."""
        ...

    def dataset(self) -> Samples | None:
        """All samples drawn so far, None where they are not stored."""
        ...

    def close(self) -> None:
        """End the production; calling it again does no harm."""
        ...


@dataclass
class Drawn:
    """A batch of a source: its samples, their names if the source tells them, and the source's position behind it."""

    samples: Sample
    names: Any
    position: Any
