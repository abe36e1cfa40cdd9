"""`DrawnSamples`: some samples of a dataset, of which a report draws its plots."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.statistics import Statistics, present_rows
from physgym.report.figures import SEED, drawn_rows, drawn_text
from physgym.spaces import Array

SAMPLES = 10_000
BYTES = 1 << 26  # of the samples that are drawn
WHOLE = 1 << 30  # of the samples of a part whose statistics are computed from all of them, where none are stored
BLOCKS = 20  # in which samples of a compressed dataset are drawn: single ones cost as much as a chunk


class DrawnSamples:
    """Samples of a dataset: all, or some that are drawn, the same ones every time.

    Args:
        dataset: The dataset, or a part of one.
        most: How many at most.

    Attributes:
        dataset: The dataset.
        rows: Their indices in it, ascending, shape (n,).
    """

    def __init__(self, dataset: SampleDataset, most: int = SAMPLES) -> None:
        self.dataset = dataset
        most = min(most, max(1, BYTES // max(1, dataset.row_nbytes)))
        if dataset.random_access or len(dataset) <= most:
            self.rows = drawn_rows(len(dataset), most)
            return
        size = max(1, most // BLOCKS)
        starts = drawn_rows(-(-len(dataset) // size), BLOCKS) * size
        rows = (starts[:, None] + np.arange(size)).reshape(-1)
        self.rows = rows[rows < len(dataset)]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def text(self) -> str:
        """Return of how many samples figures are, in words."""
        text = drawn_text(len(self), len(self.dataset))
        return text if len(self) == len(self.dataset) else f"{text}, with the seed {SEED}"

    @cached_property
    def statistics(self) -> tuple[dict[str, Statistics], int]:
        """Return statistics by field, and of how many samples they are: of all, unless reading these took long."""
        dataset = self.dataset
        stored = len(dataset) == sum(part.count for part in dataset.partitions)
        if stored or dataset.nbytes <= WHOLE or len(self) == len(dataset):
            return dataset.statistics, len(dataset)
        return dataset.subset(self.rows).statistics, len(self)

    def values(self, name: str) -> Array:
        """Return the values of a field, shape (n, *field shape); NaN where a padded one has none."""
        spec = self.dataset.spec
        found = self.dataset.gather(self.rows, [name])[name]
        there = present_rows(spec, spec[name], self._read, 0, len(self))
        if there is None or found.dtype.kind not in "biuf":
            return found
        return np.where(np.broadcast_to(there, found.shape), found.astype(np.float64), np.nan)

    def _read(self, name: str, start: int, stop: int) -> Any:
        return self.dataset.gather(self.rows[start:stop], [name])[name]
