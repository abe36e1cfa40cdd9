"""A partition: one plain HDF5 file of samples that stays readable if its writer fails.

Here it is read; `physgym.data.partition_file` makes, fills and seals it. Its number of samples is one value of 8 bytes,
written after the rows that it counts, so that a reader sees either a whole batch or nothing of it.

The layout is described in docs/reference/format.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym import files
from physgym.data.known_heads import KnownHeads
from physgym.data.layout import SAMPLES, PartitionLayout, statistics_forms
from physgym.data.partition_head import ColumnPlace, dataset_of
from physgym.data.statistics import Statistics, collect, real_fields
from physgym.data.texts import decoded, encoded, on_disk
from physgym.errors import DatasetError
from physgym.sample import SampleSpec
from physgym.spaces import Array

COPY = 1 << 24  # bytes that are copied or hashed at a time

_known = KnownHeads()  # so that HDF5 is asked once for files that are alike


@dataclass(slots=True)
class Table:
    """The datasets of a partition that have a row in common.

    Attributes:
        name: "samples", "episodes" or "rejected".
        columns: By dataset name.
        capacity: Rows that fit.
        count: Rows that are committed.
        written: Rows that are written, committed or not.
        counter: Offset of the number of committed rows.
    """

    name: str
    columns: Mapping[str, ColumnPlace]
    capacity: int
    count: int
    written: int
    counter: int | None

    @property
    def room(self) -> int:
        """Return how many rows still fit."""
        return self.capacity - self.written


class Partition:
    """An existing partition file.

    Args:
        path: The file.

    Attributes:
        head: What it holds, and where.
        tables: Its tables by name.
        sealed: Whether it is complete, with statistics and checksum.

    Raises:
        DatasetError: The file is not a partition.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self._held = _OpenFile(path)
            self._identity = _identity(status := os.fstat(self._held.handle))
            self.head, state = _known.read(path, self._held.handle, status.st_size)
        self.sealed, self._checksum = state.sealed, state.checksum
        if self.sealed:
            self._held.close()
        self.tables = {
            name: Table(name, place.columns, place.capacity, count := state.counts[name], count, place.counter)
            for name, place in self.head.tables.items()
        }
        for table in self.tables.values():
            if table.count > table.capacity or (self.sealed and table.count < table.capacity):
                raise DatasetError(
                    f"{path} claims {table.count} {table.name} but holds {table.capacity}; it is damaged"
                )
            for column in table.columns.values():
                if column.offset is not None and column.offset + table.count * column.row > status.st_size:
                    raise DatasetError(f"{path} ends before the rows of {column.name}; the copy is incomplete")

    @property
    def layout(self) -> PartitionLayout:
        """Return what it holds."""
        return self.head.layout

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Return its other attributes."""
        return self.head.attributes

    @property
    def archive(self) -> bool:
        """Return whether its rows are compressed, and read through HDF5 alone."""
        return self.head.archive

    @property
    def spec(self) -> SampleSpec:
        """Return its sample fields."""
        return self.layout.spec

    @property
    def count(self) -> int:
        """Return the number of committed samples."""
        return self.tables[SAMPLES].count

    @property
    def empty(self) -> bool:
        """Return whether nothing is committed in any table."""
        return not any(table.count for table in self.tables.values())

    @property
    def current(self) -> bool:
        """Return whether its file is still the one that it was read from."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of the committed rows as the seal has it, hexadecimal; empty where it is not sealed."""
        return self._checksum

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Return statistics of its real-valued fields: those of the seal, or computed from the committed rows.

        A seal has no number of values per component, and those of versions before left out whole samples for one value
        that is not finite: where values are missing they are computed from the rows.
        """
        found = self._sealed_statistics() if self.sealed else {}
        if not (self.sealed and self.current):
            return self._computed(self.spec)
        doubtful = tuple(name for name, known in found.items() if known.count != self.count)
        if doubtful and doubtful not in self._recomputed:
            needed = {*doubtful, *(self.spec[name].mask for name in doubtful)}
            computed = self._computed(SampleSpec([field for field in self.spec.values() if field.name in needed]))
            self._recomputed[doubtful] = {name: computed[name] for name in doubtful}
        return found | self._recomputed.get(doubtful, {})

    @cached_property
    def _recomputed(self) -> dict[tuple[str, ...], dict[str, Statistics]]:
        """Return what was computed because the seal does not say enough, by the fields; that takes long."""
        return {}

    def _sealed_statistics(self) -> dict[str, Statistics]:
        places = self.head.seal.statistics
        if places is None or self.archive:
            return self._statistics_by_hdf5()
        found = {}
        with _readable(self.path), self.opened() as (handle, part):
            for field in real_fields(self.spec):
                forms, there = statistics_forms(field), (part.head.seal.statistics or places)[field.name]
                count, *moments = (_value(handle, there[name], *form) for name, form in forms.items())
                found[field.name] = Statistics(int(count[0]), *moments)
        return found

    def _statistics_by_hdf5(self) -> dict[str, Statistics]:
        found = {}
        with _readable(self.path), h5py.File(self.path, "r") as file:
            for field in real_fields(self.spec):
                group = f"statistics/{field.name}"
                forms = statistics_forms(field)
                count, *moments = (dataset_of(file, f"{group}/{name}", archive=self.archive) for name in forms)
                if any(moment.shape != field.shape for moment in moments):
                    raise ValueError(f"{group} does not have the shape of the field")
                found[field.name] = Statistics(int(count[0]), *(moment[()] for moment in moments))
        return found

    def _computed(self, spec: SampleSpec) -> dict[str, Statistics]:
        return collect(spec, self.count, lambda name, start, stop: self.read(f"data/{name}", start, stop), COPY)

    # --- reading

    def read(self, column: str, start: int, stop: int, out: Array | None = None) -> Array:
        """Read rows of a column sequentially.

        Args:
            column: Name of the dataset.
            start: First row.
            stop: End of the rows, at most those committed.
            out: Where to put them, C-contiguous, shape (stop - start, *row shape); a new array by default.

        Raises:
            DatasetError: The file cannot be read.
        """
        (rows,) = self.read_runs(column, [(start, stop)], [out])
        return rows

    def read_runs(
        self, name: str, runs: list[tuple[int, int]], outs: list[Array | None] | None = None
    ) -> Iterator[Array]:
        """Read several runs of rows of a column, one after the other; see `read`."""
        column = self._column(name)
        try:
            if column.offset is None:
                with _open_archive(self.path) as file:
                    dataset = dataset_of(file, name, archive=True)
                    _check_filters(self.path, dataset)
                    for i, (start, stop) in enumerate(runs):
                        target = self._target(column, stop - start, outs[i] if outs else None)
                        if target.size and column.dtype.kind == "U":
                            target[...] = decoded(dataset[start:stop], column.dtype)
                        elif target.size:
                            dataset.read_direct(target, np.s_[start:stop])
                        yield target
                return
            with self.opened() as (handle, part):
                column = part._column(name)
                for i, (start, stop) in enumerate(runs):
                    target = self._target(column, stop - start, outs[i] if outs else None)
                    if target.size:
                        assert column.offset is not None
                        _fill(handle, target, column.offset + start * column.row)
                        if column.dtype.kind == "U":
                            target[...] = decoded(target.reshape(-1).view(on_disk(column.dtype)), column.dtype).reshape(
                                target.shape
                            )
                    yield target
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(f"cannot read {name} of {self.path}: {error}") from error

    def _column(self, name: str) -> ColumnPlace:
        for table in self.tables.values():
            if name in table.columns:
                return table.columns[name]
        raise DatasetError(f"{self.path} has no column {name}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[int, Partition]]:
        """Give a file descriptor, and the partition whose offsets apply to it.

        A writer replaces the file when it seals it: the rows stay the same, their places do not.
        """
        if not self._held.closed:
            yield self._held.handle, self
            return
        handle = files.open_regular(self.path)
        try:
            if _identity(os.fstat(handle)) == self._identity:
                yield handle, self
            else:
                now = Partition(self.path)
                if now.layout != self.layout or self._others_rows(now):
                    raise OSError("another file has taken its place; open the dataset again")
                with now.opened() as found:
                    yield found
        finally:
            os.close(handle)

    def _others_rows(self, now: Partition) -> bool:
        """Return whether the rows of what is under the name now are not these, and perhaps further ones."""
        counts = {name: table.count for name, table in self.tables.items()}
        found = {name: table.count for name, table in now.tables.items()}
        if found == counts and self.sealed and now.sealed:
            return now.checksum != self.checksum
        return any(found[name] < count for name, count in counts.items())

    @staticmethod
    def _target(column: ColumnPlace, rows: int, out: Array | None) -> Array:
        return np.empty((rows, *column.shape), column.dtype) if out is None else out

    def table(self, name: str) -> dict[str, Array]:
        """Read all committed rows of a table, by dataset name."""
        table = self.tables[name]
        return {column: self.read(column, 0, table.count) for column in table.columns}

    @property
    def row_bytes(self) -> int:
        """Return the bytes of all committed rows."""
        return sum(table.count * column.row for table in self.tables.values() for column in table.columns.values())

    def digest(self, done: Callable[[int], object] | None = None, *, first: Mapping[str, int] | None = None) -> str:
        """Compute the SHA-256 of the committed rows, column by column, hexadecimal.

        Args:
            done: Called with the number of bytes after each portion.
            first: How many of the first rows of each table; by default all.
        """
        digest = hashlib.sha256()
        for table in self.tables.values():
            count = table.count if first is None else first[table.name]
            for column in table.columns.values():
                step = max(1, COPY // max(1, column.row))
                for start in range(0, count if column.row else 0, step):
                    rows = self.read(column.name, start, min(count, start + step))
                    digest.update(encoded(rows).reshape(-1).view(np.uint8).data)
                    if done is not None:
                        done(rows.nbytes)
        return digest.hexdigest()


def _fill(handle: int, target: Array, offset: int) -> None:
    """Read an array that is C-contiguous from a place of a file."""
    rest = target.reshape(-1).view(np.uint8).data
    while rest:
        got = os.preadv(handle, [rest], offset)
        if not got:
            raise OSError(f"the file ends {len(rest)} bytes early")
        rest, offset = rest[got:], offset + got


def _value(handle: int, offset: int | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array that begins at a place of a file; one without values has none."""
    found = np.empty(shape, dtype)
    if offset is not None:
        _fill(handle, found, offset)
    return found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Translate all errors of HDF5 and numpy for damaged bytes: the partition is damaged."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"{path} is not a readable partition ({error}). Move it away; the others remain usable"
        ) from error


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_ctime_ns  # the number of a deleted file is soon given to another


class _OpenFile:
    """A file descriptor that is closed with its owner."""

    def __init__(self, path: Path) -> None:
        self.handle = files.open_regular(path)
        self._finalizer = weakref.finalize(self, os.close, self.handle)

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        self._finalizer()


def _open_archive(path: Path) -> h5py.File:
    with contextlib.suppress(ImportError):  # what HDF5 itself has is enough for some archives
        import hdf5plugin  # noqa: F401  # registers its filters with HDF5
    return h5py.File(path, "r")


def _check_filters(path: Path, dataset: h5py.Dataset) -> None:
    """Raise DatasetError if HDF5 lacks what decompresses a dataset; its own message speaks of a folder of plugins."""
    creation = dataset.id.get_create_plist()
    for i in range(creation.get_nfilters()):
        code, _, _, name = creation.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise DatasetError(
                f"{path} is compressed with {name.decode().partition(';')[0] or code}, which HDF5 cannot read here: "
                "pip install 'physgym[archive]'"
            )
