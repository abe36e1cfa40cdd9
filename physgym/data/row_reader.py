"""Reading rows of several partitions as if they were one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from physgym.data.partition import Partition
from physgym.sample import Sample
from physgym.spaces import Array


def read_rows(partitions: Sequence[tuple[int, Partition]], bounds: Array, rows: Array, batch: Sample) -> None:
    """Read rows of partitions in any order: those that follow one another at once, each partition opened once.

    Args:
        partitions: The partitions, in order, each after the number of its folder.
        bounds: Their first rows, and the end of the last one.
        rows: Which rows, shape (n,), int64.
        batch: Where to put them: by field, shape (n, *field shape).
    """
    if not len(rows) or not batch:
        return
    order = None if np.all(rows[1:] > rows[:-1]) else np.argsort(rows, kind="stable")
    rows = rows if order is None else rows[order]
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    cuts = np.union1d(cuts, np.searchsorted(rows, bounds[1:-1]))
    starts = np.concatenate([[0], cuts[(cuts > 0) & (cuts < len(rows))]])
    stops = np.append(starts[1:], len(rows))
    owners = np.searchsorted(bounds, rows[starts], side="right") - 1
    for owner in np.unique(owners):
        part, mine = partitions[owner][1], owners == owner
        first = rows[starts[mine]] - bounds[owner]
        places = list(zip(starts[mine].tolist(), stops[mine].tolist(), strict=True))
        runs = [(begin, begin + stop - start) for begin, (start, stop) in zip(first.tolist(), places, strict=True)]
        for name, target in batch.items():
            if order is None:
                for _ in part.read_runs(f"data/{name}", runs, [target[start:stop] for start, stop in places]):
                    pass
            else:
                for (start, stop), values in zip(places, part.read_runs(f"data/{name}", runs), strict=True):
                    target[order[start:stop]] = values
