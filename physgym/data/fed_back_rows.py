"""Looks at stored samples that are trained on: whether they hold what is declared to be fed back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.windows import without_windows
from physgym.feedback_gaps import feedback_fields, feedback_gaps
from physgym.real_time import was_in_real_time

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
    if any(was_in_real_time(source) or "load" in source for source, _ in dataset.origins()[0]):
        return
    size = max(2, min(ROWS, BYTES // sum(dataset.spec[name].nbytes for name in fields)))
    episodes, steps = dataset.episodes, dataset.index("step")
    for start in np.unique(np.linspace(0, max(0, len(dataset) - size), BLOCKS, dtype=np.int64)).tolist():
        part = slice(start, min(start + size, len(dataset)))
        rows = dataset.read(part.start, part.stop, fields)
        if gaps := list(map(str, feedback_gaps(dataset.spec, rows, episodes[part], steps[part]))):
            warnings.warn(". ".join(gaps), UserWarning, stacklevel=3)
            return
