"""`Flusher`: brings samples from the buffer to the partitions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from physgym.data.layout import SAMPLES, PartitionLayout
from physgym.data.mapped_rows import MappedRows
from physgym.data.partition_file import Appender
from physgym.data.partition_set import PartitionSet
from physgym.data.sample_buffer import SampleBuffer
from physgym.data.sample_checks import PendingBatch, SampleChecks
from physgym.data.side_tables import SideTables
from physgym.data.transaction import Restorable, Transaction
from physgym.spaces import Array

FEW = 16  # a commit has few samples where it has less than one part in so many of those that the buffer holds
LOOK = 0.01  # seconds after which it is looked again whether the folder is there, where looking costs more than writing
OFTEN = 8  # such commits in a row, after which samples are stored into a map


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
        pending: Samples that left the buffer and are not stored all; the next call continues with them.
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
        self._looked = 0.0  # when the folder was last looked at
        self._small = 0  # commits in a row that had few samples
        self._parts: tuple[Restorable, ...] = (self, buffer, checks, partitions, *side_tables.values())

    def snapshot(self) -> PendingBatch | None:
        """Return the samples that are being stored."""
        return self.pending

    def restore(self, state: PendingBatch | None) -> None:
        """Store these samples again."""
        self.pending = state

    def drop(self) -> None:
        """Give up all samples that are not stored."""
        self.pending = None
        self._buffer.clear()

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
            (buffer.columns, buffer.begin, buffer.end),
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

    def flush(self, *, asked: bool = False) -> None:
        """Store what the buffer has, after what an interrupted call has left over.

        Args:
            asked: Whether a caller wants it committed. Where that is often so with few samples, they are stored into a
                map of the partition's file, where they lie already when they are to be committed.
        """
        buffer = self._buffer
        if self.pending is not None:
            self.store()
        if (mapped := buffer.mapped) is not None and self._stored_in_place(mapped, asked):
            return
        if fill := buffer.fill:
            with Transaction(self._parts):
                self.pending = self._checked(buffer.filled(), fill)
                buffer.clear()
            self.store()
            if asked:
                self._small = self._small + 1 if fill <= buffer.size // FEW else 0
                if self._small >= OFTEN:
                    self._map()

    def make_room(self, count: int) -> None:
        """Store what the buffer has, which lacks room for so many samples more."""
        often = self._buffer.fill <= self._buffer.size // FEW
        self.flush()
        if not often:
            self._small = 0
        if self._buffer.mapped is not None:
            self._buffer.clear()
            if often:
                self._map(count)

    def _stored_in_place(self, mapped: MappedRows, asked: bool) -> bool:
        """Take samples that lie in a map as written; return whether they were plain enough for that."""
        end, table = self._buffer.end, mapped.table
        if end == table.written:
            return True
        if end == table.capacity or (self._side_tables and self._side_tables.waiting):
            return False
        if not self._checks.pass_all(mapped.columns, table.written, end):
            return False
        if not asked or time.monotonic() > self._looked + LOOK:
            with self._partitions.disk(mapped.partition):
                self._looked = time.monotonic()
        table.written = end  # in one go: these samples no longer wait
        return True

    def _map(self, count: int = 1) -> None:
        """Lend the buffer the columns of the open partition where that is possible, and it has room for so many."""
        try:
            if (mapped := self._partitions.mapped()) is None:
                return
            mapped.extend(self._buffer.size, count)
        except (OSError, ValueError):  # as where the disk is nearly full: calls write what still fits, and say the rest
            self._small = 0
            return
        if mapped.ready - mapped.table.written >= count:
            self._buffer.lend(mapped)

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
        mapped, begin = self._buffer.mapped, self._buffer.begin
        pending = self._checks.checked(rows, count)
        if mapped is not None and pending.rows is rows:
            pending = replace(pending, mapped=mapped, begin=begin)
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
                    self._write(appender, pending, stop)
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

    def _write(self, appender: Appender, pending: PendingBatch, stop: int) -> None:
        """Write samples of a batch up to one of them, unless they lie in their place already."""
        table, mapped = appender.partition.tables[SAMPLES], pending.mapped
        if mapped is not None and mapped.table is table and table.written == pending.begin + pending.done:
            table.written = pending.begin + stop
        else:
            part = slice(pending.done, stop)
            appender.write(SAMPLES, {name: pending.rows[name][part] for name in self._columns})

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
