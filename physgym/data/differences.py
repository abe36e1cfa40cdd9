"""Statistics of differences: of what a step gives and the input that it is at the next step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from physgym.data.statistics import Read, Statistics, check_mask, present_rows
from physgym.data.step_runs import StepRuns
from physgym.data.windows import without_windows
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array

BLOCK_BYTES = 1 << 24  # of rows that are read at once


def difference_statistics(samples: Any, pairs: Mapping[str, str]) -> dict[str, Statistics]:
    """Return statistics of output - input by output, over stored samples.

    Where a sample holds both, the difference is taken within each sample. Where it holds the input alone, it is taken
    between two samples of an episode whose steps follow one another; none reaches over the end of an episode or a
    missing step. Values that are not finite, or padding in one of both, are left out.

    Args:
        samples: A dataset, or windows of one.
        pairs: Output to the input that it is at the next step.

    Raises:
        SampleError: A field is padded, and its mask is not among the samples.
    """
    rows = without_windows(samples)
    for name in (*pairs, *pairs.values()):
        if name in rows.spec:
            check_mask(rows.spec[name], list(rows.spec))
    inside = {output: name for output, name in pairs.items() if output in rows.spec}
    once = {output: name for output, name in pairs.items() if output not in rows.spec}
    found = {} if not inside else _summed(_within(rows, inside), rows.spec, inside)
    return found | ({} if not once else _summed(_between(rows, once), rows.spec, once))


def drawn_differences(spec: SampleSpec, samples: Sample, pairs: Mapping[str, str]) -> dict[str, Statistics]:
    """Return statistics of output - input by output, over samples in memory that hold both.

    Args:
        spec: Their fields.
        samples: Arrays of shape (n, *field shape).
        pairs: Output to the input that it is at the next step.
    """
    return {output: _of(spec, output, name, samples, samples, slice(None)) for output, name in pairs.items()}


def _summed(
    parts: Iterator[dict[str, Statistics]], spec: SampleSpec, pairs: Mapping[str, str]
) -> dict[str, Statistics]:
    total = {output: Statistics.empty(spec[name].shape) for output, name in pairs.items()}
    for part in parts:
        total = {output: known.merge(part[output]) for output, known in total.items()}
    return total


def _within(rows: Any, pairs: Mapping[str, str]) -> Iterator[dict[str, Statistics]]:
    """Yield statistics of differences within each sample, block by block."""
    spec = rows.spec
    names = _with_masks(spec, [*pairs, *pairs.values()])
    for start, stop in _blocks(rows, names, 0):
        yield drawn_differences(spec, _read(rows, start, stop, names), pairs)


def _between(rows: Any, pairs: Mapping[str, str]) -> Iterator[dict[str, Statistics]]:
    """Yield statistics of differences between samples whose steps follow one another, block by block."""
    runs = StepRuns.find(rows.episodes, rows.index("step"))
    if runs.order is not None:
        rows = rows.subset(runs.order)
    follows = np.ones(len(rows), bool)  # whether the sample before it is of the step before
    follows[runs.starts] = False
    spec = rows.spec
    names = _with_masks(spec, list(pairs.values()))
    for start, stop in _blocks(rows, names, 1):
        read = _read(rows, start, stop, names)
        before, after = ({name: value[part] for name, value in read.items()} for part in (slice(-1), slice(1, None)))
        here = np.flatnonzero(follows[start + 1 : stop])
        yield {output: _of(spec, name, name, after, before, here) for output, name in pairs.items()}


def _of(spec: SampleSpec, output: str, name: str, after: Sample, before: Sample, rows: Any) -> Statistics:
    """Return statistics of the differences of some rows.

    Args:
        spec: The fields.
        output: Field of `after`.
        name: Field of `before`.
        after: The rows after a step.
        before: The rows before it.
        rows: Which of them.
    """
    difference = after[output][rows].astype(np.float64) - before[name][rows].astype(np.float64)
    present: Array | None = None
    for field, values in ((spec[output], after), (spec[name], before)):
        chosen = {mask: values[mask][rows] for mask in (field.mask,) if mask in spec}
        here = present_rows(spec, field, _rows_of(chosen), 0, len(difference))
        if here is not None:
            present = here if present is None else present & here
    return Statistics.of(difference, present)


def _rows_of(values: Sample) -> Read:
    return lambda name, start, stop: values[name][start:stop]


def _read(rows: Any, start: int, stop: int, names: list[str]) -> Sample:
    """Return consecutive rows, read one after the other where they can be."""
    read: Any = getattr(rows, "read", None)
    found: Sample = rows.gather(np.arange(start, stop), names) if read is None else read(start, stop, names)
    return found


def _with_masks(spec: SampleSpec, names: list[str]) -> list[str]:
    return list(dict.fromkeys([*names, *(spec[name].mask for name in names if spec[name].mask in spec)]))


def _blocks(rows: Any, names: list[str], overlap: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows; each has the last rows of the one before it, so many as `overlap`."""
    size = max(1, BLOCK_BYTES // max(1, sum(rows.spec[name].nbytes for name in names))) + overlap
    for start in range(0, max(0, len(rows) - overlap), size - overlap):
        yield start, min(start + size, len(rows))
