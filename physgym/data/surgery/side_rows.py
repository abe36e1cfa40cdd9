"""`SideRows`: the rows of a partition's other tables, handed to a writer with the samples that they precede."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from physgym.data.layout import ENDINGS, EPISODES, INDEX, REJECTED, row_nbytes
from physgym.data.partition import COPY, Partition
from physgym.data.surgery.plans import NewPart, Piece
from physgym.data.writer import SampleWriter
from physgym.spaces import Array


class SideRows:
    """Rows of parameters, endings and rejected samples of one partition.

    Args:
        partition: The partition.
        part: What is written of it.
        piece: Which rows.
        writer: Takes them.
    """

    def __init__(self, partition: Partition, part: NewPart, piece: Piece, writer: SampleWriter) -> None:
        self._partition, self._part, self._piece, self._writer = partition, part, piece, writer
        wanted = {EPISODES: part.parameters is not None, REJECTED: part.rejected, ENDINGS: part.endings}
        self._tables = [table for table in partition.tables if wanted.get(table)]
        self._names = {table: self._names_of(table) for table in self._tables}
        self._done = dict.fromkeys(self._tables, 0)

    def _names_of(self, table: str) -> tuple[Array, Array]:
        """Return episodes and steps of the rows of a table; parameters come before the first step."""
        episode, step = {
            EPISODES: ("episodes/episode", None),
            REJECTED: ("rejected/index/episode", "rejected/index/step"),
            ENDINGS: ("endings/episode", "endings/steps"),
        }[table]
        count = self._partition.tables[table].count
        episodes = self._partition.read(episode, 0, count)
        return episodes, np.full(count, -1) if step is None else self._partition.read(step, 0, count)

    def until(self, episode: int, step: int) -> None:
        """Hand over the rows up to the last sample of a block."""
        for table in self._tables:
            episodes, steps = (column[self._done[table] :] for column in self._names[table])
            # an ending has the number of its last step and one
            late = (episodes > episode) | ((episodes == episode) & (steps - (table == ENDINGS) > step))
            self._hand_over(table, int(np.argmax(late)) if late.any() else len(late))

    def finish(self) -> None:
        """Hand over the rest."""
        for table in self._tables:
            self._hand_over(table, len(self._names[table][0]) - self._done[table])

    def _hand_over(self, table: str, count: int) -> None:
        """Hand over the next rows, some at a time."""
        columns = self._partition.tables[table].columns
        nbytes = sum(row_nbytes((column.shape, column.dtype)) for column in columns.values())
        step, end = max(1, COPY // max(1, nbytes)), self._done[table] + count
        while (start := self._done[table]) < end:
            stop = min(end, start + step)
            self._done[table] = stop
            episodes = self._names[table][0][start:stop]
            chosen = self._piece.selection
            kept = np.ones(len(episodes), bool) if chosen is None else chosen.episodes(table, episodes)
            if kept.any():
                rows = {name: self._partition.read(name, start, stop)[kept] for name in columns}
                give: dict[str, Callable[[Mapping[str, Array], Array], None]] = {
                    EPISODES: self._parameters,
                    REJECTED: self._rejected,
                    ENDINGS: self._endings,
                }
                give[table](rows, episodes[kept] + self._piece.shift)

    def _parameters(self, rows: Mapping[str, Array], episodes: Array) -> None:
        assert self._part.parameters is not None
        values = {name: rows[f"parameters/{name}"] for name in self._part.parameters}
        self._writer.add_parameters(values, episode=episodes, seed=rows["episodes/seed"])

    def _rejected(self, rows: Mapping[str, Array], episodes: Array) -> None:
        stored = self._part.stored
        samples = {name: rows[f"rejected/data/{stored.get(name, name)}"] for name in self._part.spec}
        reasons = [reason.decode(errors="replace") for reason in rows["rejected/reason"].tolist()]
        names = {name: rows[f"rejected/index/{name}"] for name in INDEX} | {"episode": episodes}
        self._writer.add_rejected(samples, reasons, **names)

    def _endings(self, rows: Mapping[str, Array], episodes: Array) -> None:
        words = [word.decode() for word in rows["endings/how"].tolist()]
        self._writer.add_endings(episode=episodes, steps=rows["endings/steps"], how=words)
