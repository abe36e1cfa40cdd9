"""`RunningStatistics`: statistics of partitions that are not sealed, kept while rows come."""

from __future__ import annotations

from pathlib import Path

from physgym.data.partition import Partition
from physgym.data.statistics import Accumulator, Statistics, present_rows, real_fields
from physgym.sample import SampleSpec
from physgym.spaces import Array


class RunningStatistics:
    """Statistics of open partitions; each row is read once, when its block is full.

    Args:
        spec: The sample fields.
    """

    def __init__(self, spec: SampleSpec) -> None:
        self._spec = spec
        self._accumulators: dict[Path, dict[str, Accumulator]] = {}

    def of(self, part: Partition) -> dict[str, Statistics]:
        """Take in what was committed since the last time; return the statistics of all, by real-valued field."""
        found = {}
        accumulators = self._accumulators.setdefault(
            part.path, {field.name: Accumulator(field.shape, field.dtype) for field in real_fields(self._spec)}
        )
        count = part.count

        def read(name: str, start: int, stop: int) -> Array:
            return part.read(f"data/{name}", start, stop)

        for name, accumulator in accumulators.items():
            field = self._spec[name]
            while count - (start := accumulator.rows) >= accumulator.block:
                stop = start + accumulator.block
                accumulator.add(read(name, start, stop), present_rows(self._spec, field, read, start, stop))
            rest = read(name, start, count)
            found[name] = accumulator.with_rest(rest, present_rows(self._spec, field, read, start, count))
        return found

    def forget(self, part: Partition) -> None:
        """Drop the sums of a partition whose seal has them."""
        self._accumulators.pop(part.path, None)
