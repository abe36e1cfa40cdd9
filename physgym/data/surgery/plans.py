"""Plans of new datasets: their parts, each of rows of other datasets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.data.layout import INDEX
from physgym.data.partition import COPY, Partition
from physgym.sample import SampleSpec
from physgym.spaces import Array


class Selection(Protocol):
    """Choice of the rows of a part that are kept."""

    count: int

    def rows(self, partition: int, start: int, stop: int) -> Array:
        """Tell which rows of a partition are kept, shape (stop - start,)."""

    def episodes(self, table: str, numbers: Array) -> Array:
        """Tell which rows of a side table are kept, by the numbers of their episodes."""


@dataclass(frozen=True)
class Piece:
    """Rows of one dataset that go into the new one.

    Attributes:
        dataset: Where they are read, one mode of one folder.
        selection: Which of them; None for all.
        shift: What is added to the numbers of their episodes.
    """

    dataset: SampleDataset
    selection: Selection | None = None
    shift: int = 0

    @property
    def count(self) -> int:
        """Return how many samples there are."""
        return len(self.dataset) if self.selection is None else self.selection.count


@dataclass(frozen=True)
class NewPart:
    """A part of a new dataset, as it is to be written.

    Attributes:
        mode: Which part.
        spec: Its fields.
        pieces: The rows, in order.
        source: Where they come from.
        provenance: Of which code and datasets they are.
        stored: The field of the sources by field of the new samples, where it has another name there.
        parameters: Parameters of episodes, None for none.
        rejected: Whether rejected samples are kept.
        endings: Whether it is kept how episodes ended.
        attributes: Further attributes of the partitions.
        computed: Fields that are computed: gives their columns for each block of rows, in order.
    """

    mode: Mode
    spec: SampleSpec
    pieces: Sequence[Piece]
    source: Mapping[str, Any]
    provenance: Mapping[str, Any]
    stored: Mapping[str, str]
    parameters: SampleSpec | None
    rejected: bool
    endings: bool
    attributes: Mapping[str, str] = field(default_factory=dict)
    computed: Callable[[], contextlib.AbstractContextManager[Iterator[Mapping[str, Array]]]] | None = None

    @property
    def count(self) -> int:
        """Return how many samples it will have."""
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True)
class NewDataset:
    """A dataset as it is to be written.

    Attributes:
        parts: Its parts.
        constants: What it stores once.
        metadata: What people say of it.
        notes: What is lost or worth knowing, for a person.
    """

    parts: Sequence[NewPart]
    constants: Mapping[str, Array]
    metadata: Mapping[str, str]
    notes: Sequence[str] = ()


def block_rows(dataset: SampleDataset) -> int:
    """Return how many rows are read at once."""
    return max(1, COPY // max(1, dataset.spec.nbytes + sum(dtype.itemsize for dtype in INDEX.values())))


def blocks(dataset: SampleDataset) -> Iterator[tuple[int, Partition, int, int]]:
    """Yield the rows of a part by blocks: the number of the partition, the partition, first row and end."""
    step = block_rows(dataset)
    for number, part in enumerate(dataset.partitions):
        for start in range(0, part.count, step):
            yield number, part, start, min(part.count, start + step)
