"""Looks at stored samples that are trained on: whether they hold what is declared to be fed back."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.origins import sources_of
from physgym.data.windows import without_windows
from physgym.feedback_gaps import feedback_fields, feedback_gaps
from physgym.real_time import was_in_real_time
from physgym.spaces import Array

BLOCKS, ROWS, BYTES = 8, 32, 1 << 20  # that are read: blocks over the whole dataset, and rows and bytes of each


def warn_of_feedback(samples: Any) -> None:
    """Warn where stored samples do not hold what is declared to be fed back; a small part of them is read.

    Args:
        samples: A dataset or windows of one; nothing is said of others, nor of samples that need not follow from each
            other: those of simulators in real time, and those whose simulation was driven by stored samples.
    """
    dataset = without_windows(samples)
    if not isinstance(dataset, SampleDataset) or len(dataset) < 2 or not (fields := feedback_fields(dataset.spec)):
        return
    sources = {part.attributes["source"] for part in dataset.partitions}
    if any(was_in_real_time(source) or "load" in source for source in sources_of(map(json.loads, sources))):
        return
    size = max(2, min(ROWS, BYTES // sum(dataset.spec[name].nbytes for name in fields)))
    for start in np.unique(np.linspace(0, max(0, len(dataset) - size), BLOCKS, dtype=np.int64)).tolist():
        stop = min(start + size, len(dataset))
        episodes, steps = _names(dataset, start, stop)
        rows = dataset.read(start, stop, fields)
        if gaps := list(map(str, feedback_gaps(dataset.spec, rows, episodes, steps))):
            warnings.warn(". ".join(gaps), UserWarning, stacklevel=3)
            return


def _names(dataset: SampleDataset, start: int, stop: int) -> tuple[Array, Array]:
    """Return episode and step of consecutive samples; the index of the whole dataset may be larger than the memory."""
    rows, ends = dataset.stored_rows(np.arange(start, stop)), np.cumsum([part.count for part in dataset.partitions])
    numbers = np.searchsorted(ends, rows, side="right")
    found = np.empty((2, len(rows)), np.int64)
    for number in np.unique(numbers):
        part, here = dataset.partitions[number], numbers == number
        inside = rows[here] - (ends[number] - part.count)
        first, last = int(inside.min()), int(inside.max())
        for values, name in zip(found, ("episode", "step"), strict=True):
            values[here] = part.read(f"index/{name}", first, last + 1)[inside - first]
    return found[0], found[1]
