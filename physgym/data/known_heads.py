"""`KnownHeads`: heads of partitions that were read before, to recognize them in other files without HDF5.

What HDF5 makes of a file follows from the bytes that it reads. So a file that has the same ones is read alike, but for
numbers whose places are known: how many rows there are, what a seal adds, and how many rows fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py

from physgym.data.layout import SAMPLES, row_nbytes, statistics_forms
from physgym.data.object_header import DATASPACE, LAYOUT, messages
from physgym.data.partition_head import PartitionHead, PartitionState, TablePlace, parse
from physgym.data.recorded_file import ByteRange, RecordedFile
from physgym.data.statistics import real_fields

WORD, DIGEST = 8, 32  # bytes of a number and of a checksum
UNDEFINED = (1 << 64) - 1  # the address of no bytes
FILE_END = 40  # offset of the number that says how many bytes the file has
NEAR = 4096  # bytes between two ranges that are read at once, at most
MOST_PATTERNS = 16
MOST_HEADS = 64  # of a pattern, which differ in how many rows fit


@dataclass(frozen=True)
class CapacityPlaces:
    """The places in the header of a column that follow from how many rows fit: that twice, address and size of all."""

    rows: int
    most: int
    address: int
    size: int

    @classmethod
    def of(cls, dataset: h5py.Dataset, recorded: RecordedFile) -> CapacityPlaces:
        """Find the places in the header of a column.

        Raises:
            ValueError: It is not as the oldest version of HDF5 writes it.
        """
        found = {one.kind: one for one in messages(recorded, h5py.h5o.get_info(dataset.id).addr)}
        space, layout = found[DATASPACE], found[LAYOUT]
        if space.body[:3] != bytes((1, dataset.ndim, 1)) or layout.body[:2] != b"\x03\x01":
            raise ValueError(f"the header of {dataset.name} is of another version")
        rows = space.place + WORD
        return cls(rows, rows + WORD * dataset.ndim, layout.place + 2, layout.place + 2 + WORD)


@dataclass(frozen=True)
class HeadPiece:
    """Bytes of a file that are read at once.

    Attributes:
        start: The first one.
        size: How many.
        fixed: Those that are the same in each file, with the place of the first one in the piece.
    """

    start: int
    size: int
    fixed: list[tuple[int, bytes]]


class HeadPattern:
    """The bytes from which HDF5 made a head.

    Args:
        head: The head.
        file: The file that it was read from.
        recorded: Its bytes, and which of them HDF5 has read.

    Attributes:
        free: Bytes that may be others in another file: rows, how many these are, and what a seal adds.

    Raises:
        ValueError: Not all that changes is where a writer of ours puts it.
    """

    def __init__(self, head: PartitionHead, file: h5py.File, recorded: RecordedFile) -> None:
        flag, checksum = head.seal.flag, head.seal.checksum
        if head.archive or flag is None or checksum is None or head.seal.statistics is None:
            raise ValueError("it is compressed, or of another program")
        self._head, self._flag = head, flag
        counters = {name: table.counter or 0 for name, table in head.tables.items()}
        columns = [name for table in head.tables.values() for name in table.columns]
        capacities = [CapacityPlaces.of(file[name], recorded) for name in columns]
        varying = [(place, place + WORD) for one in capacities for place in (one.rows, one.most, one.address, one.size)]
        numbers = [(checksum, checksum + DIGEST), *((place, place + WORD) for place in (flag, *counters.values()))]
        self.free = [*numbers, *_moments(head), *_rows(head)]
        numbers += [*varying, (FILE_END, FILE_END + WORD)]
        fixed = list(_without(recorded.reads, [*numbers, *self.free]))
        self._pieces = [
            HeadPiece(
                start, stop - start, [(a - start, recorded.bytes_at(a, b - a)) for a, b in fixed if start <= a < stop]
            )
            for start, stop in _joined([*fixed, *numbers], NEAR)
        ]
        self._end, self._checksum = self._of_pieces(FILE_END, WORD), self._of_pieces(checksum, DIGEST)
        self._counters = {name: self._of_pieces(place, WORD) for name, place in counters.items()}
        self._varying = [self._of_pieces(start, stop - start) for start, stop in varying]
        self._samples = counters[SAMPLES]
        self._heads: dict[bytes, PartitionHead] = {}

    def _of_pieces(self, place: int, size: int) -> tuple[int, slice]:
        """Return in which piece some bytes are, and where in it."""
        number = max(i for i, piece in enumerate(self._pieces) if piece.start <= place)
        start = place - self._pieces[number].start
        return number, slice(start, start + size)

    def read(self, handle: int, size: int) -> tuple[PartitionHead, PartitionState] | None:
        """Read the head of another file; None where that takes HDF5.

        Args:
            handle: Its descriptor.
            size: Its bytes.
        """
        # first: where it is sealed the rest is final, and samples that are committed have their parameters
        sealed = any(os.pread(handle, WORD, self._flag))
        samples = os.pread(handle, WORD, self._samples)
        pieces: list[bytes] = []
        for piece in self._pieces:
            data = os.pread(handle, piece.size, piece.start)
            if len(data) < piece.size or not all(data.startswith(same, at) for at, same in piece.fixed):
                return None
            pieces.append(data)

        def found(place: tuple[int, slice]) -> bytes:
            return pieces[place[0]][place[1]]

        if _number(found(self._end)) != size:
            return None
        varying = [found(place) for place in self._varying]
        head = self._heads.get(key := b"".join(varying))
        if head is None:
            head = self._with_capacities([_number(one) for one in varying], size)
            if head is None:
                return None
            if len(self._heads) == MOST_HEADS:
                self._heads = {}
            self._heads[key] = head
        counts = {name: _number(found(place)) for name, place in self._counters.items()}
        if not sealed:
            counts[SAMPLES] = _number(samples)
        return head, PartitionState(sealed, found(self._checksum).hex() if sealed else "", counts)

    def holds(self, path: Path, handle: int, size: int) -> bool:
        """Tell if the file that it was made of is recognized, and if HDF5 makes the same of other rows and numbers.

        In a damaged file these may be at the place of something else.
        """
        found = self.read(handle, size)
        if found is None or found[0] is not self._head:
            return False
        recorded = RecordedFile(handle, size, self.free)
        try:
            with h5py.File(recorded, "r") as file:
                return parse(path, file, recorded)[0] == self._head
        except Exception:  # noqa: BLE001  # HDF5 and numpy raise whatever they like about what is no metadata
            return False

    def _with_capacities(self, numbers: list[int], size: int) -> PartitionHead | None:
        """Return the head with other numbers of rows that fit; None where they are at odds.

        Args:
            numbers: Four for each column: twice the rows, the address and the bytes of them all.
            size: Bytes of the file.
        """
        tables, rest = {}, iter(numbers)
        for name, table in self._head.tables.items():
            columns, capacities = {}, set()
            for column in table.columns.values():
                rows, most, address, nbytes = (next(rest) for _ in range(4))
                if rows != most or nbytes != rows * column.row:
                    return None
                if address + nbytes > size if nbytes else address != UNDEFINED:
                    return None
                capacities.add(rows)
                columns[column.name] = replace(column, offset=address if nbytes else 0)
            if len(capacities) != 1:
                return None
            tables[name] = TablePlace(columns, capacities.pop(), table.counter)
        return self._head if tables == self._head.tables else replace(self._head, tables=tables)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _moments(head: PartitionHead) -> Iterator[ByteRange]:
    """Yield where the statistics are."""
    for field in real_fields(head.layout.spec):
        for name, form in statistics_forms(field).items():
            place = (head.seal.statistics or {})[field.name][name]
            if place is not None:
                yield place, place + row_nbytes(form)


def _rows(head: PartitionHead) -> Iterator[ByteRange]:
    """Yield where the rows of each column are."""
    for table in head.tables.values():
        for column in table.columns.values():
            start = column.offset or 0
            yield start, start + table.capacity * column.row


class KnownHeads:
    """Heads of files that were read last, so that the next ones are recognized; any thread may ask."""

    def __init__(self) -> None:
        self._patterns: tuple[HeadPattern, ...] = ()  # those that were met last come first; replaced as a whole

    def read(self, path: Path, handle: int, size: int) -> tuple[PartitionHead, PartitionState]:
        """Read the head of a partition.

        Args:
            path: The file, for messages.
            handle: Its descriptor.
            size: Its bytes.

        Raises:
            DatasetError: It is no partition, or one of another version.
            Exception: HDF5, numpy and others say it in their way where bytes are damaged.
        """
        for pattern in (patterns := self._patterns):
            if (found := pattern.read(handle, size)) is not None:
                if pattern is not patterns[0]:
                    self._patterns = (pattern, *(other for other in patterns if other is not pattern))
                return found
        recorded = RecordedFile(handle, size)
        with h5py.File(recorded, "r") as file:
            head, state = parse(path, file, recorded)
            try:
                pattern = HeadPattern(head, file, recorded)
            except (KeyError, ValueError):  # each such file takes HDF5
                return head, state
        if pattern.holds(path, handle, size):
            self._patterns = (pattern, *patterns)[:MOST_PATTERNS]
        return head, state


def _without(ranges: Iterable[ByteRange], excluded: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Yield what is left of ranges, which are in order."""
    holes = sorted(excluded)
    for start, stop in ranges:
        for begin, end in holes:
            if begin < stop and end > start:
                if start < begin:
                    yield start, begin
                start = max(start, end)
        if start < stop:
            yield start, stop


def _joined(ranges: Iterable[ByteRange], gap: int) -> list[ByteRange]:
    """Return ranges in order; those with at most so many bytes between them are one."""
    found: list[ByteRange] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found
