"""`SideTable`: rows of a table such as parameters, which wait for the samples they precede."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from physgym.data.layout import ENDINGS, EPISODES, SAMPLES, Form, PartitionLayout
from physgym.data.partition import Partition
from physgym.data.partition_file import Appender
from physgym.errors import DatasetError
from physgym.spaces import Array


class SideTable:
    """Rows that wait for the samples they precede.

    Args:
        table: Its name.
        forms: Its columns: dataset name to the form of a row.
        partitions: What is stored already; rows named there are left out, since a resumed generation repeats them.
    """

    def __init__(self, table: str, forms: Mapping[str, Form], partitions: Sequence[Partition]) -> None:
        self._table, self.forms = table, forms
        first = np.iinfo(np.int64).min
        last = first, first
        for part in reversed(partitions):
            count = part.tables[table].count
            if count:
                names = self._names({n: part.read(n, count - 1, count) for n in part.tables[table].columns})
                last = int(names[0][0]), int(names[1][0])
                break
        nothing = np.empty(0, np.int64)
        # rows, their episodes and steps, the name up to which rows are left out: replaced as a whole, never changed
        self._state: tuple[dict[str, Array], Array, Array, tuple[int, int]] = {}, nothing, nothing, last

    def _names(self, rows: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return episodes and steps of rows; parameters come before the first step."""
        if self._table == EPISODES:
            return rows["episodes/episode"], np.full(len(rows["episodes/episode"]), -1)
        if self._table == ENDINGS:
            return rows["endings/episode"], rows["endings/steps"] - 1
        return rows["rejected/index/episode"], rows["rejected/index/step"]

    def snapshot(self) -> tuple[dict[str, Array], Array, Array, tuple[int, int]]:
        """Return what waits."""
        return self._state

    def restore(self, state: tuple[dict[str, Array], Array, Array, tuple[int, int]]) -> None:
        """Go back to a saved state, with the rows that waited then."""
        self._state = state

    @property
    def waiting(self) -> int:
        """Return how many rows wait."""
        return len(self._state[1])

    def add(self, rows: Mapping[str, Array]) -> None:
        """Take rows.

        Raises:
            DatasetError: Episodes of parameters do not ascend.
        """
        waiting, _, _, last = self._state
        episodes, steps = self._names(rows)
        if self._table == EPISODES and (np.diff(episodes) <= 0).any():
            raise DatasetError("parameters come once per episode, in ascending order of the episodes")
        new = ~_at_most(episodes, steps, *last)
        kept = {name: column[new] for name, column in rows.items()}
        if self._table == EPISODES and new.any():
            last = int(episodes[-1]), -1
        if waiting:
            kept = {name: np.concatenate([waiting[name], column]) for name, column in kept.items()}
        self._state = kept, *self._names(kept), last

    def until(self, episode: int, step: int) -> int:
        """Return how many rows, from the first on, precede this sample or belong to it."""
        _, episodes, steps, _ = self._state
        late = ~_at_most(episodes, steps, episode, step)
        return int(np.argmax(late)) if late.any() else self.waiting

    def before_next(self, episodes: Array, steps: Array) -> int:
        """Return how many samples, from the first on, precede the next row."""
        _, waiting, at, _ = self._state
        late = ~_at_most(episodes, steps, waiting[0], at[0] - 1)
        return int(np.argmax(late)) if late.any() else len(episodes)

    def take(self, count: int) -> dict[str, Array]:
        """Return the next rows, which wait no longer."""
        rows, episodes, steps, last = self._state
        rest = {name: column[count:] for name, column in rows.items()}
        self._state = rest, episodes[count:], steps[count:], last
        return {name: column[:count] for name, column in rows.items()}


def _at_most(episodes: Array, steps: Array, episode: int, step: int) -> Array:
    """Tell which names are not after a given one."""
    found: Array = (episodes < episode) | ((episodes == episode) & (steps <= step))
    return found


class SideTables(dict[str, SideTable]):
    """The side tables of a layout by name, in the order in which their rows are stored.

    Args:
        layout: The layout of the partitions.
        partitions: What is stored already.
    """

    def __init__(self, layout: PartitionLayout, partitions: Sequence[Partition]) -> None:
        super().__init__(
            {name: SideTable(name, forms, partitions) for name, forms in layout.tables.items() if name != SAMPLES}
        )

    @property
    def waiting(self) -> bool:
        """Return whether any row waits."""
        return any(side.waiting for side in self.values())

    def store_before(self, appender: Appender, rows: Mapping[str, Array], start: int, stop: int) -> int:
        """Write the rows that precede the samples from `start` to `stop`; return how many samples then fit."""
        for name, side in self.items():
            episodes, steps = (rows[f"index/{key}"][start:stop] for key in ("episode", "step"))
            table = appender.partition.tables[name]
            waiting = side.until(episodes[-1], steps[-1])
            if waiting:
                appender.write(name, side.take(min(waiting, table.room)))
            if side.until(episodes[-1], steps[-1]):  # the rest goes into the next partition, with the samples after it
                stop = start + side.before_next(episodes, steps)
                if stop == start:
                    break
        return stop - start

    def store_all(self, appender: Appender) -> None:
        """Write the rows that wait, as far as the partition has room."""
        for name, side in self.items():
            if side.waiting:
                appender.write(name, side.take(min(side.waiting, appender.partition.tables[name].room)))
