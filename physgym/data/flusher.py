"""`Flusher`: brings samples from the buffer to the partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from physgym.data.layout import SAMPLES, Layout
from physgym.data.partition_set import PartitionSet
from physgym.data.sample_buffer import SampleBuffer
from physgym.data.sample_checks import Portion, SampleChecks
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
        sides: Rows that precede them.
        partitions: Where they are stored.

    Attributes:
        portion: Samples that left the buffer and are not stored all; the next call goes on with them.
    """

    def __init__(
        self,
        layout: Layout,
        buffer: SampleBuffer,
        checks: SampleChecks,
        sides: SideTables,
        partitions: PartitionSet,
    ) -> None:
        self._columns = list(layout.tables[SAMPLES])
        self._buffer, self._checks, self._sides, self._partitions = buffer, checks, sides, partitions
        self.portion: Portion | None = None
        self._parts: tuple[Restorable, ...] = (self, buffer, checks, partitions, *sides.values())

    def snapshot(self) -> Portion | None:
        """Return the samples that are being stored."""
        return self.portion

    def restore(self, state: Portion | None) -> None:
        """Store these samples again."""
        self.portion = state

    def drop(self) -> None:
        """Give up all samples that are not stored."""
        self.portion, self._buffer.fill = None, 0

    @property
    def waiting(self) -> int:
        """Return how many samples are not written yet, those in the buffer included."""
        portion = self.portion
        return self._buffer.fill + (portion.count - portion.done if portion else 0)

    @property
    def last(self) -> tuple[int, int] | None:
        """Return episode and step of the last sample that is taken, None if there is none."""
        buffer, portion = self._buffer, self.portion
        for rows, begin, end in (
            (buffer.columns, 0, buffer.fill),
            *([(portion.rows, portion.done, portion.count)] if portion else []),
        ):
            if end > begin:
                return int(rows["index/episode"][end - 1]), int(rows["index/step"][end - 1])
        return self._partitions.last

    def names(self) -> Iterator[tuple[Array, Array]]:
        """Give episodes and steps of all samples that are taken, in portions."""
        yield from self._partitions.names()
        if self.portion is not None:
            rows, left = self.portion.rows, slice(self.portion.done, self.portion.count)
            yield rows["index/episode"][left], rows["index/step"][left]
        yield self._buffer.names()

    def flush(self) -> None:
        """Store what the buffer has, after what an interrupted call has left over."""
        if self.portion is not None:
            self.store()
        if self._buffer.fill:
            with Transaction(self._parts):
                self.portion = self._checked(self._buffer.filled(), self._buffer.fill)
                self._buffer.fill = 0
            self.store()

    def store_rows(self, rows: Mapping[str, Array], count: int) -> None:
        """Store samples that are too many for the buffer, which is empty."""
        try:
            with Transaction(self._parts):
                self.portion = self._checked(rows, count)
            self.store()
        except BaseException:
            self.portion = None  # the caller may change the arrays
            raise

    def _checked(self, rows: Mapping[str, Array], count: int) -> Portion:
        portion = self._checks.checked(rows, count)
        if portion.error is not None:
            self._buffer.taken.forget()  # its sample and those after it are not stored
        return portion

    def store(self) -> None:
        """Write the portion, whatever belongs to its samples before them, into as many partitions as that takes.

        Raises:
            SampleError: What the portion says after its last sample.
            DatasetError: The disk refuses.
        """
        while (portion := self.portion) is not None and portion.done < portion.count:
            appender = self._partitions.with_room()
            room = appender.partition.tables[SAMPLES].room
            with self._partitions.disk(appender.partition), Transaction(self._parts):
                fit = min(portion.count, portion.done + room)
                stop = portion.done + self._sides.store_before(appender, portion.rows, portion.done, fit)
                if stop > portion.done:
                    part = slice(portion.done, stop)
                    appender.write(SAMPLES, {name: portion.rows[name][part] for name in self._columns})
                if stop < fit or stop == portion.done + room:
                    self._partitions.end_last()
                self.portion = replace(portion, done=stop)
            self._partitions.rotate_ended()
        error = portion.error if portion is not None else None
        if error is not None:
            self._partitions.commit()
        self.portion = None
        if error is not None:
            raise error

    def store_sides(self) -> None:
        """Store rows of side tables whose samples never came."""
        while self._sides.waiting:
            appender = self._partitions.with_room()
            with self._partitions.disk(appender.partition), Transaction(self._parts):
                self._sides.store_all(appender)
                if self._sides.waiting:
                    self._partitions.end_last()
            self._partitions.commit()
            self._partitions.rotate_ended()
