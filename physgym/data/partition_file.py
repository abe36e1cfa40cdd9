"""A partition's file in the making: created, filled by an `Appender`, sealed.

HDF5 writes the file's metadata once, under a temporary name: contiguous datasets of a fixed capacity. From then on
rows are written at the datasets' offsets, and a commit is one write of 8 bytes, the number of samples, after the rows.
A reader therefore sees either a whole batch or nothing of it. Where both are done often, they are stores into a map of
the file, see `MappedRows`. Closing seals the file: statistics and a checksum are added, and where there is room left,
the rows are copied to a file of the exact size, which replaces it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym import files
from physgym.data.file_image import header_image
from physgym.data.layout import MOMENTS, SAMPLES, PartitionLayout
from physgym.data.mapped_rows import MappedRows
from physgym.data.partition import COPY, Partition, Table
from physgym.data.piecewise import pwrite_all
from physgym.data.statistics import Statistics
from physgym.data.texts import encoded, on_disk
from physgym.errors import DatasetError
from physgym.spaces import Array

log = logging.getLogger(__name__)


class Appender:
    """Writes rows into an open partition.

    Args:
        partition: An unsealed partition.
        durable: Whether a commit waits until the disk has it.
    """

    def __init__(self, partition: Partition, *, durable: bool = False) -> None:
        self.partition, self._durable = partition, durable
        self._handle = files.open_regular(partition.path, os.O_RDWR)
        self._mapped: MappedRows | None = None
        self._others = [table for name, table in reversed(partition.tables.items()) if name != SAMPLES]

    def mapped(self) -> MappedRows | None:
        """Return the samples as arrays in the file, see `MappedRows`; None where that is not possible."""
        if self._mapped is None and not self._durable and MappedRows.possible(self.partition, self._handle):
            self._mapped = MappedRows(self.partition, self._handle)
        return self._mapped

    def write(self, table: str, rows: Mapping[str, Array]) -> None:
        """Write rows (dataset name to array (n, *row shape)), which fit, after those written before.

        Raises:
            OSError: The disk refuses.
        """
        into = self.partition.tables[table]
        for name, column in into.columns.items():
            data = np.ascontiguousarray(encoded(rows[name]), on_disk(column.dtype))
            if data.size:
                assert column.offset is not None
                pwrite_all(self._handle, data, column.offset + into.written * column.row)
        into.written += len(rows[name])

    def commit(self) -> None:
        """Make everything written so far count: the samples last, since the other tables belong to them.

        Raises:
            OSError: The disk refuses.
        """
        if self.commit_in_place():
            return
        others, samples = self._others, self.partition.tables[SAMPLES]
        if all(table.written == table.count for table in (*others, samples)):
            return
        if self._durable:
            os.fdatasync(self._handle)
        for table in others:
            self._count(table)
        if self._durable and others:
            os.fdatasync(self._handle)
        self._count(samples)
        if self._durable:
            os.fdatasync(self._handle)

    def commit_in_place(self) -> bool:
        """Commit without a call where samples alone were written, and lie in a map; return whether that is so."""
        if self._mapped is None:
            return False
        for table in self._others:
            if table.written != table.count:
                return False
        self._mapped.commit()
        return True

    def _count(self, table: Table) -> None:
        if table.written > table.count:
            assert table.counter is not None
            pwrite_all(self._handle, np.array([table.written], "<u8"), table.counter)
            table.count = table.written

    def close(self) -> None:
        """Close the file without sealing it; calling it again does no harm."""
        handle, self._handle = self._handle, -1  # first: an interrupt must not leave the number of what others may open
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_partition(
    path: Path, layout: PartitionLayout, capacity: int, attributes: Mapping[str, Any], *, durable: bool = False
) -> Partition:
    """Make an empty partition, visible under its name only when it is whole."""
    with files.replacing(path, durable=durable) as temporary:
        header_image(layout, dict.fromkeys(layout.tables, capacity), attributes).save(temporary)
    log.info("new partition %s: room for %d rows", path, capacity)
    return Partition(path)


def seal(part: Partition, statistics: Mapping[str, Statistics] | None = None, *, durable: bool = False) -> Partition:
    """Complete a partition with statistics and checksum; where there is room left, in a new file of exact size.

    Args:
        part: The partition.
        statistics: Of the real-valued fields, computed by default.
        durable: Whether to wait for the disk, so that a power cut undoes nothing.

    Returns:
        The sealed partition.
    """
    if part.sealed:
        return part
    log.info("seals %s", part.path)
    statistics = statistics or part.statistics
    if any(table.count < table.capacity for table in part.tables.values()):
        return _copy(part, part.path, _counts(part), statistics, durable)
    _finish(part, statistics, part.digest(), durable=durable)
    return Partition(part.path)


def sealed_copy(part: Partition, path: Path, rows: Mapping[str, int] | None = None) -> Partition:
    """Make a sealed partition of exact size, in another file; this one stays as it is.

    Args:
        part: The partition.
        path: The new file.
        rows: How many of the first rows of each table; by default all that are committed.
    """
    if rows is None:
        return _copy(part, path, _counts(part), part.statistics, False)
    return seal(_copy(part, path, rows, None, False))


def unseal(part: Partition, capacity: int, *, durable: bool = False) -> Partition:
    """Replace a sealed partition by one with room for further rows."""
    return _copy(part, part.path, dict.fromkeys(part.tables, capacity), None, durable)


def _counts(part: Partition) -> dict[str, int]:
    return {name: table.count for name, table in part.tables.items()}


def _copy(
    part: Partition,
    path: Path,
    capacities: Mapping[str, int],
    statistics: Mapping[str, Statistics] | None,
    durable: bool,
) -> Partition:
    """Put the committed rows, as many as there is room for, in a file of other capacities; seal it with statistics."""
    attributes = {name: value for name, value in part.attributes.items() if name != "archive"}
    with files.replacing(path, durable=durable) as temporary:
        header_image(part.layout, capacities, attributes).save(temporary)
        copy = Partition(temporary)
        with Appender(copy) as appender:
            for table in part.tables.values():
                rows_at_once = max(1, COPY // max(1, max(column.row for column in table.columns.values())))
                count = min(table.count, capacities[table.name])
                for start in range(0, count, rows_at_once):
                    stop = min(count, start + rows_at_once)
                    # unnamed: the next portion is not read while this one is still there
                    appender.write(table.name, {name: part.read(name, start, stop) for name in table.columns})
            appender.commit()
        if statistics is not None:
            _finish(copy, statistics, copy.digest(), durable=False)
    return Partition(path)


def _finish(part: Partition, statistics: Mapping[str, Statistics], checksum: str, *, durable: bool) -> None:
    """Write what a seal has: the metadata was written when the file was made."""
    seal = part.head.seal
    if seal.flag is None or seal.checksum is None or seal.statistics is None:
        raise DatasetError(f"{part.path} has no room for statistics and checksum: another program has changed it")
    places: list[tuple[int | None, Array]] = [(seal.checksum, np.frombuffer(bytes.fromhex(checksum), np.uint8))]
    for name, s in statistics.items():
        places.append((seal.statistics[name]["count"], np.array([s.count], "<u8")))
        places += [(seal.statistics[name][moment], getattr(s, moment)) for moment in MOMENTS]
    handle = files.open_regular(part.path, os.O_RDWR)
    try:
        for offset, value in places:
            if offset is not None:  # of a field without values nothing is stored
                pwrite_all(handle, np.ascontiguousarray(value), offset)
        if durable:
            os.fdatasync(handle)  # the flag vouches for all that was written before it
        pwrite_all(handle, np.array([1], "<u8"), seal.flag)
        if durable:
            os.fdatasync(handle)
    finally:
        os.close(handle)
