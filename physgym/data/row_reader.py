"""`RowReader`: rows of several partitions as if they were one."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

import numpy as np

from physgym.data.layout import SAMPLES
from physgym.data.memory_map import Stitched
from physgym.data.partition import Partition
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Sample, SampleSpec
from physgym.spaces import Array
from physgym.system.memory import available_memory
from physgym.system.page_cache import cached_fraction

PAGE = 4096  # bytes
LONGEST = 1 << 31  # bytes that an item of an array may have
LOOKED_AT = 64  # partitions, at most about twice as many, by which all are judged
JOINED = 4096  # bytes between rows that take less time to read than a further call
LONG = 32 << 20  # bytes of rows that are read at once
SMALL = 2048  # bytes of a row that takes longer to find than to copy

log = logging.getLogger(__name__)


class RowReader:
    """The rows of partitions, counted over all of them: read from the files, or gathered from mapped memory.

    Args:
        partitions: The partitions, in order.
        bounds: Their first rows, and the end of the last one.
        spec: The fields to read.
    """

    def __init__(self, partitions: Sequence[Partition], bounds: Array, spec: SampleSpec) -> None:
        self._partitions, self._bounds, self._spec = partitions, bounds, spec
        self._slices: dict[tuple[str, int], Slices] = {}
        self._populated: set[str] = set()  # fields whose pages are mapped

    @cached_property
    def stitched(self) -> Stitched | None:
        """Return all partitions as one array per field but texts; None where they are better read."""
        columns = {name: f"data/{name}" for name, field in self._spec.items() if field.dtype.kind != "U"}
        if not Stitched.possible(self._partitions, list(columns.values())):
            return None
        # a page is the least that a map reads, and more than that it reads ahead in vain
        memory, row, where = available_memory(), self._spec.nbytes, self._partitions[0].path.parent
        if memory is not None and int(self._bounds[-1]) * row > memory and row >= PAGE:
            log.info("%s is larger than the memory: its samples are read instead of mapped", where)
            return None
        try:
            stitched = Stitched(self._partitions, list(columns.values()))
        except DatasetError as error:  # addresses may be limited; what else is wrong will show
            log.warning("%s; samples are read instead, which is slower", error)
            return None
        stitched.arrays = {name: stitched.arrays[column] for name, column in columns.items()}
        return stitched

    def cached_fraction(self, names: Sequence[str]) -> float | None:
        """Return how much of fields is in the page cache, by some of the partitions; None where nothing says it."""
        held = total = 0.0
        for part in self._partitions[:: -(-len(self._partitions) // LOOKED_AT)]:
            try:
                with part.opened() as (handle, now):
                    columns = [now.tables[SAMPLES].columns[f"data/{name}"] for name in names]
                    ranges = [(column.offset or 0, part.count * column.row) for column in columns]
                    found = cached_fraction(handle, ranges)
            except OSError as error:
                raise DatasetError(f"cannot open {part.path}: {error}") from error
            size = sum(length for _, length in ranges)
            if found is None and size:
                return None
            held, total = held + (found or 0) * size, total + size
        return held / total if total else None

    def populate(self, names: Sequence[str]) -> Iterator[int]:
        """Read mapped fields into the page cache, and map their pages; only once.

        Yields:
            0 before it begins, then the bytes of each piece that is done; nothing where nothing is left to do.
        """
        if (stitched := self.stitched) is None:
            return
        for name in [name for name in names if name in stitched.arrays and name not in self._populated]:
            yield 0
            yield from stitched.populate(f"data/{name}")
            self._populated.add(name)

    def gather(self, rows: Array, batch: Sample) -> None:
        """Gather rows from mapped memory where that is possible, else read them.

        Args:
            rows: Which rows, shape (n,), int64.
            batch: Where to put them: by field, shape (n, *field shape).
        """
        stitched = self.stitched
        mapped = {} if stitched is None else stitched.arrays
        self.read(rows, {name: target for name, target in batch.items() if name not in mapped})
        if stitched is None:
            return
        places = stitched.place(rows)
        for name in batch.keys() & mapped.keys():
            # clip, because raise would copy; the indices have been looked at
            mapped[name].take(places, 0, batch[name], "clip")

    def slices(self, starts: Array, length: int, names: Sequence[str], out: Mapping[str, Array] | None) -> Sample:
        """Gather rows that follow one another, from each of some on.

        Args:
            starts: First row of each slice, shape (n,), int64.
            length: Rows of a slice.
            names: The fields.
            out: Where to put them: by field, shape (n, length, *field shape); None for new arrays.
        """
        stitched, found = self.stitched, {}
        mapped = {} if stitched is None else stitched.arrays
        places, cut = (starts, None) if stitched is None else stitched.place_slices(starts, length)
        for name in names:
            target = None if out is None else out[name]
            if cut is not None and name in mapped:
                if (name, length) not in self._slices:
                    self._slices[name, length] = Slices(mapped[name], length)
                found[name] = self._slices[name, length].take(places, target)
                if len(cut):
                    found[name][cut] = self._by_row(starts[cut], length, name)
            else:
                found[name] = self._by_row(starts, length, name, target)
        return found

    def _by_row(self, starts: Array, length: int, name: str, out: Array | None = None) -> Array:
        """Return slices of a field, gathered row by row."""
        field = self._spec[name]
        found = np.empty((len(starts), length, *field.shape), field.dtype) if out is None else out
        rows = (starts[:, None] + np.arange(length)).reshape(-1)
        self.gather(rows, {name: found.reshape(len(rows), *field.shape)})
        return found

    def read(self, rows: Array, batch: Sample) -> None:
        """Read rows in any order: those that lie close together at once, each partition opened once.

        Args:
            rows: Which rows, shape (n,), int64.
            batch: Where to put them: by field, shape (n, *field shape).
        """
        if not len(rows) or not batch:
            return
        order = None if np.all(rows[1:] > rows[:-1]) else np.argsort(rows, kind="stable")
        rows = rows if order is None else rows[order]
        row = max(1, *(self._spec[name].nbytes for name in batch))
        pieces = rows // max(1, LONG // row)
        cuts = np.flatnonzero((np.diff(rows) > 1 + JOINED // row) | (np.diff(pieces) != 0)) + 1
        cuts = np.union1d(cuts, np.searchsorted(rows, self._bounds[1:-1]))
        starts = np.concatenate([[0], cuts[(cuts > 0) & (cuts < len(rows))]])
        stops = np.append(starts[1:], len(rows))
        owners = np.searchsorted(self._bounds, rows[starts], side="right") - 1
        for owner in np.unique(owners):
            part, mine = self._partitions[owner], owners == owner
            first, last = (rows[ends] - self._bounds[owner] for ends in (starts[mine], stops[mine] - 1))
            runs = [(begin, end + 1) for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
            places = [slice(*ends) for ends in zip(starts[mine].tolist(), stops[mine].tolist(), strict=True)]
            inside = [rows[place] - rows[place.start] for place in places]
            whole = [len(chosen) == end - begin for chosen, (begin, end) in zip(inside, runs, strict=True)]
            for name, target in batch.items():
                direct = [
                    target[p] if all_of and order is None else None for p, all_of in zip(places, whole, strict=True)
                ]
                read = part.read_runs(f"data/{name}", runs, direct)
                for place, out, chosen, values in zip(places, direct, inside, read, strict=True):
                    if out is None:
                        target[place if order is None else order[place]] = values[chosen]


class RowsInMemory:
    """Rows of a dataset that were read to memory.

    Args:
        spec: The fields of the dataset.
        arrays: The rows, by field, shape (n, *field shape), C-contiguous.
        first: Number of the first of them.
    """

    def __init__(self, spec: SampleSpec, arrays: Sample, first: int) -> None:
        self._spec, self._arrays, self._first = spec, arrays, first

    def gather(
        self, indices: Array, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Return rows by their numbers, as `physgym.SampleDataset.gather`."""
        names = list(self._arrays) if fields is None else list(fields)
        batch = targets(self._spec, names, len(indices), out)
        for name, target in batch.items():
            np.take(self._arrays[name], indices - self._first, axis=0, out=target, mode="clip")
        return batch

    def slices(
        self, starts: Array, length: int, fields: Sequence[str] | None = None, out: Mapping[str, Array] | None = None
    ) -> Sample:
        """Return slices of consecutive rows, as `physgym.SampleDataset.slices`."""
        found = {}
        for name in list(self._arrays) if fields is None else fields:
            rows, target = self._arrays[name], None if out is None else out[name]
            found[name] = Slices(rows, length).take(starts - self._first, target)
        return found


def targets(spec: SampleSpec, names: Sequence[str], count: int, out: Mapping[str, Array] | None = None) -> Sample:
    """Return arrays for fields of so many items, the arrays of `out` if they fit.

    Raises:
        ConfigError: An array of `out` does not fit.
    """
    fields = [spec[name] for name in names]
    if out is None:
        return {field.name: np.empty((count, *field.shape), field.dtype) for field in fields}
    for field in fields:
        given, shape = out.get(field.name), (count, *field.shape)
        if given is None or given.shape != shape or given.dtype != field.dtype or not given.flags.carray:
            raise ConfigError(f"out[{field.name!r}] must be a C-contiguous array {shape} of {field.dtype}")
    return {name: out[name] for name in names}


PIECE = 1 << 17  # bytes of slices that are gathered before they are copied to where they belong


class Slices:
    """All slices of consecutive rows of an array.

    A slice of small rows is one item of an array whose items overlap, so that it is copied at once: three times as fast
    as rows by their indices.

    Args:
        rows: The array, shape (rows, *row shape), C-contiguous.
        length: Rows of a slice.
    """

    def __init__(self, rows: Array, length: int) -> None:
        self._rows, self._shape = rows, (length, *rows.shape[1:])
        row = rows.dtype.itemsize * math.prod(rows.shape[1:])
        self._items: Array | None = None
        if length > 1 and 0 < row < SMALL and row * length < LONGEST and len(rows) >= length:
            item, memory = np.dtype((np.void, row * length)), rows.reshape(-1).view(np.uint8).data
            self._items = np.ndarray((len(rows) - length + 1,), item, memory, 0, (row,))
        self._piece = max(1, PIECE // max(1, row * length))

    def take(self, starts: Array, out: Array | None = None) -> Array:
        """Return slices, shape (n, length, *row shape).

        Args:
            starts: First row of each, shape (n,), int64.
            out: Where to put them; None for a new array.
        """
        if (items := self._items) is not None:
            if out is None:
                return cast(Array, items[starts].view(self._rows.dtype).reshape(len(starts), *self._shape))
            for begin in range(0, len(starts), self._piece):
                part = items[starts[begin : begin + self._piece]]
                out[begin : begin + self._piece] = part.view(self._rows.dtype).reshape(len(part), *self._shape)
            return out
        length, *row = self._shape
        found: Array = np.empty((len(starts), *self._shape), self._rows.dtype) if out is None else out
        places = starts if length == 1 else (starts[:, None] + np.arange(length)).reshape(-1)
        # clip, because raise would copy
        np.take(self._rows, places, axis=0, out=found.reshape(len(places), *row), mode="clip")
        return found
