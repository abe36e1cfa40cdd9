"""Mean and standard deviation per component of a field, merged batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from physgym.sample import Field, SampleSpec
from physgym.spaces import Array


def real_fields(spec: SampleSpec) -> list[Field]:
    """The fields that have statistics: all but complex ones, for which a mean and a deviation say too little."""
    return [field for field in spec.values() if field.dtype.kind != "c"]


@dataclass(frozen=True)
class Statistics:
    """Moments of a field over samples.

    Attributes:
        count: Number of samples.
        mean: Shape of the field, float64.
        std: Standard deviation (of the population), shape of the field, float64.
    """

    count: int
    mean: Array
    std: Array

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Statistics:
        """Of no samples."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, values: Array) -> Statistics:
        """Of a batch, shape (n, *field shape)."""
        if len(values) == 0:
            return cls.empty(values.shape[1:])
        wide = np.asarray(values, np.float64)
        return cls(len(values), wide.mean(0), wide.std(0))

    def merge(self, other: Statistics) -> Statistics:
        """Of both sets of samples together, by the update of Chan, Golub and LeVeque (1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        weight = other.count / count
        delta = other.mean - self.mean
        mean = self.mean + weight * delta
        variance = (1 - weight) * self.std**2 + weight * other.std**2 + weight * (1 - weight) * delta**2
        return Statistics(count, mean, np.sqrt(variance))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` is the inverse."""
        return {"count": self.count, "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Statistics:
        """The statistics that `to_json` described."""
        return cls(int(data["count"]), np.asarray(data["mean"], np.float64), np.asarray(data["std"], np.float64))


BLOCK = 256  # samples; the blocks are those of the dataset, so that appending in other portions gives the same bits


class RunningStatistics:
    """Statistics of all real-valued fields of a growing dataset.

    Args:
        spec: The fields.
    """

    def __init__(self, spec: SampleSpec) -> None:
        self._fields = real_fields(spec)
        self._total = {field.name: Statistics.empty(field.shape) for field in self._fields}
        self._open = {field.name: np.empty((BLOCK, *field.shape), field.dtype) for field in self._fields}
        self._filled = 0

    def add(self, samples: Mapping[str, Array]) -> None:
        """Take in further samples: fields of shape (n, *field shape)."""
        count = len(samples[self._fields[0].name]) if self._fields else 0
        start = 0
        while start < count:
            stop = min(count, start + BLOCK - self._filled)
            end = self._filled + stop - start
            for name, block in self._open.items():
                block[self._filled : end] = samples[name][start:stop]
            start, self._filled = stop, end
            if self._filled == BLOCK:
                self._total = self.result()
                self._filled = 0

    def result(self) -> dict[str, Statistics]:
        """Statistics of everything so far, by field name."""
        return {
            name: total.merge(Statistics.of(self._open[name][: self._filled])) for name, total in self._total.items()
        }
