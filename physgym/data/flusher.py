"""`Flusher`: brings samples from the buffer to the partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from physgym.data.layout import SAMPLES, PartitionLayout
from physgym.data.partition_set import PartitionSet
from physgym.data.sample_buffer import SampleBuffer
from physgym.data.sample_checks import PendingBatch, SampleChecks
from physgym.data.side_tables import SideTables
from physgym.data.transaction import Restorable, Transaction
from physgym.spaces import Array


class Flusher:
    """Stores samples, checked and after the rows of side tables that precede them; Ctrl-C loses none and doubles none.

    All methods are called with the writer's lock held.

    Args:
        layout: The layout of the partitions.
        buffer: Where samples wait.
        checks: What they must keep.
        side_tables: Rows that precede them.
        partitions: Where they are stored.

    Attributes:
        pending: Samples that left the buffer and are not stored all; the next call goes on with them.
    """

    def __init__(
        self,
        layout: PartitionLayout,
        buffer: SampleBuffer,
        checks: SampleChecks,
        side_tables: SideTables,
        partitions: PartitionSet,
    ) -> None:
        self._columns = list(layout.tables[SAMPLES])
        self._buffer, self._checks, self._side_tables, self._partitions = buffer, checks, side_tables, partitions
        self.pending: PendingBatch | None = None
        self._parts: tuple[Restorable, ...] = (self, buffer, checks, partitions, *side_tables.values())

    def snapshot(self) -> PendingBatch | None:
        """Return the samples that are being stored."""
        return self.pending

    def restore(self, state: PendingBatch | None) -> None:
        """Store these samples again."""
        self.pending = state

    def drop(self) -> None:
        """Give up all samples that are not stored."""
        self.pending, self._buffer.fill = None, 0

    @property
    def waiting(self) -> int:
        """Return how many samples are not written yet, those in the buffer included."""
        pending = self.pending
        return self._buffer.fill + (pending.count - pending.done if pending else 0)

    @property
    def last(self) -> tuple[int, int] | None:
        """Return episode and step of the last sample that is taken, None if there is none."""
        buffer, pending = self._buffer, self.pending
        for rows, begin, end in (
            (buffer.columns, 0, buffer.fill),
            *([(pending.rows, pending.done, pending.count)] if pending else []),
        ):
            if end > begin:
                return int(rows["index/episode"][end - 1]), int(rows["index/step"][end - 1])
        return self._partitions.last

    def names(self) -> Iterator[tuple[Array, Array]]:
        """Give episodes and steps of all samples that are taken, in portions."""
        yield from self._partitions.names()
        if self.pending is not None:
            rows, rest = self.pending.rows, slice(self.pending.done, self.pending.count)
            yield rows["index/episode"][rest], rows["index/step"][rest]
        yield self._buffer.names()

    def flush(self) -> None:
        """Store what the buffer has, after what an interrupted call has left over."""
        if self.pending is not None:
            self.store()
        if self._buffer.fill:
            with Transaction(self._parts):
                self.pending = self._checked(self._buffer.filled(), self._buffer.fill)
                self._buffer.fill = 0
            self.store()

    def store_rows(self, rows: Mapping[str, Array], count: int) -> None:
        """Store samples that are too many for the buffer, which is empty."""
        try:
            with Transaction(self._parts):
                self.pending = self._checked(rows, count)
            self.store()
        except BaseException:
            self.pending = None  # the caller may change the arrays
            raise

    def _checked(self, rows: Mapping[str, Array], count: int) -> PendingBatch:
        pending = self._checks.checked(rows, count)
        if pending.error is not None:
            self._buffer.taken.forget()  # its sample and those after it are not stored
        return pending

    def store(self) -> None:
        """Write the pending batch, and rows that precede its samples, into as many partitions as it takes.

        Raises:
            SampleError: The error of the pending batch, after its last sample.
            DatasetError: The disk refuses.
        """
        while (pending := self.pending) is not None and pending.done < pending.count:
            appender = self._partitions.with_room()
            room = appender.partition.tables[SAMPLES].room
            with self._partitions.disk(appender.partition), Transaction(self._parts):
                fit = min(pending.count, pending.done + room)
                stop = pending.done + self._side_tables.store_before(appender, pending.rows, pending.done, fit)
                if stop > pending.done:
                    part = slice(pending.done, stop)
                    appender.write(SAMPLES, {name: pending.rows[name][part] for name in self._columns})
                if stop < fit or stop == pending.done + room:
                    self._partitions.end_last()
                self.pending = replace(pending, done=stop)
            self._partitions.rotate_ended()
        error = pending.error if pending is not None else None
        if error is not None:
            self._partitions.commit()
        self.pending = None
        if error is not None:
            raise error

    def store_remaining_side_rows(self) -> None:
        """Store rows of side tables whose samples never came."""
        while self._side_tables.waiting:
            appender = self._partitions.with_room()
            with self._partitions.disk(appender.partition), Transaction(self._parts):
                self._side_tables.store_all(appender)
                if self._side_tables.waiting:
                    self._partitions.end_last()
            self._partitions.commit()
            self._partitions.rotate_ended()
