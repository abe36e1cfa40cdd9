"""A partition: one plain HDF5 file of samples that is readable whatever happens to its writer.

HDF5 writes the file's metadata once, under a temporary name: contiguous datasets of a fixed capacity. From then on
rows are written at the datasets' offsets, and a commit is one write of 8 bytes, the number of samples, after the rows.
A reader therefore sees either a whole batch or nothing of it. Closing seals the file: statistics and a checksum are
added, and where there is room left, the rows are copied to a file of the exact size, which replaces it.

The layout is described in docs/format.md.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import io
import json
import logging
import math
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
from physgym.data.statistics import Statistics, collect, real_fields
from physgym.data.texts import GROUP, decoded, encoded, on_disk, read_attributes, text_dtype, write_text, write_texts
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field, SampleSpec
from physgym.spaces import Array

log = logging.getLogger(__name__)

FORMAT = "physgym-partition"
TOO_SMALL = (
    "max_file_size={given} is too small: a file with a single one of these samples takes {least} bytes, its metadata "
    "included. Set max_file_size to {least} or more"
)
KINDS = "biufcSUV"  # of a field's dtype
FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, 32001, 32004, 32015}  # the last: blosc, lz4, zstd
VERSION = 2
INDEX: dict[str, np.dtype[Any]] = {
    "episode": np.dtype("<i8"),
    "step": np.dtype("<i8"),
    "env": np.dtype("<i4"),
    "seed": np.dtype("<u8"),
}
REASON: np.dtype[Any] = np.dtype("S200")
# the oldest superblock that holds large files: it leaves no consistency flag behind when a writer dies
LIBVER = ("earliest", "v110")
ALIGNMENT = 1 << 16  # bytes; whole pages everywhere, so that columns can be memory-mapped
HEADER = 1024  # about what HDF5 writes for a column
MOST_KNOWN, LOOKS = 1000, 3
ALIGNED = 1 << 12  # bytes; smaller datasets need not be aligned
COPY = 1 << 24  # bytes that are copied or hashed at a time
PIECE = 1 << 16  # bytes of a write; for larger ones the page cache takes larger pages, which are slow to come by

SAMPLES, EPISODES, REJECTED, ENDINGS = "samples", "episodes", "rejected", "endings"
COUNTERS = {SAMPLES: "num_samples", EPISODES: "num_episodes", REJECTED: "num_rejected", ENDINGS: "num_endings"}
ENDING: np.dtype[Any] = np.dtype("S10")  # how an episode ended: terminated, truncated or cut
MOMENTS = ("mean", "std", "min", "max")

Form = tuple[tuple[int, ...], np.dtype[Any]]  # shape and dtype of a row


@dataclass(frozen=True)
class Layout:
    """What a partition holds.

    Attributes:
        spec: Sample fields.
        parameters: Parameters that are stored per episode, None for none.
        rejected: Whether rejected samples are stored apart.
        endings: Whether it is stored how each episode ended.
    """

    spec: SampleSpec
    parameters: SampleSpec | None = None
    rejected: bool = False
    endings: bool = False

    @cached_property
    def tables(self) -> dict[str, dict[str, Form]]:
        """Columns of every table: dataset name to the form of a row."""
        index: dict[str, Form] = {f"index/{name}": ((), dtype) for name, dtype in INDEX.items()}
        samples = _fields("data", self.spec) | index
        tables = {SAMPLES: samples}
        if self.parameters is not None:
            names: dict[str, Form] = {f"episodes/{name}": ((), INDEX[name]) for name in ("episode", "seed")}
            tables[EPISODES] = _fields("parameters", self.parameters) | names
        if self.rejected:
            apart = {f"rejected/{name}": form for name, form in samples.items()}
            tables[REJECTED] = {**apart, "rejected/reason": ((), REASON)}
        if self.endings:
            number = INDEX["step"]
            tables[ENDINGS] = {
                "endings/episode": ((), INDEX["episode"]),
                "endings/steps": ((), number),
                "endings/how": ((), ENDING),
            }
        return tables

    @cached_property
    def row_nbytes(self) -> int:
        """Bytes of a row of all tables together."""
        return sum(row_nbytes(form) for columns in self.tables.values() for form in columns.values())


def _fields(group: str, spec: SampleSpec) -> dict[str, Form]:
    return {f"{group}/{name}": (field.shape, field.dtype) for name, field in spec.items()}


def row_nbytes(form: Form) -> int:
    """Bytes of one row of a column."""
    shape, dtype = form
    return math.prod(shape) * dtype.itemsize


def rows_per_page(row: int, page: int) -> int:
    """The smallest number of rows that fill whole pages."""
    return page // int(np.gcd(row, page)) if row else 1


@dataclass(frozen=True)
class Column:
    """Where the rows of one dataset lie in the file.

    Attributes:
        name: Of the dataset.
        shape: Of a row.
        dtype: Of a row.
        offset: First byte in the file; None where the dataset is chunked.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return row_nbytes((self.shape, self.dtype))


@dataclass
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
    columns: dict[str, Column]
    capacity: int
    count: int
    written: int
    counter: int | None

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return self.capacity - self.written


def replace(temporary: Path, final: Path, *, durable: bool) -> None:
    """Give a finished file its final name; with `durable` a power cut leaves the old file or the new one as well."""
    if durable:
        files.flush(temporary)
    temporary.replace(final)
    if durable:
        files.flush(final.parent)


def _create_file(path: Path, layout: Layout, capacities: Mapping[str, int], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of a file without rows."""
    _image(layout, capacities, attributes).save(path)


def file_size(layout: Layout, capacity: int, attributes: Mapping[str, Any]) -> int:
    """Return the bytes of a partition with room for so many rows in every table, its metadata included."""
    return _image(layout, dict.fromkeys(layout.tables, capacity), attributes).size


def capacity(layout: Layout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Return how many samples a partition has whose file is not larger than that, at least one.

    Whole pages of every field where there are so many, so that full partitions follow one another in memory.

    Raises:
        ConfigError: Not even one sample fits.
    """
    padding = ALIGNMENT * sum(len(columns) for columns in layout.tables.values())
    found = (max_file_size - _most_metadata(layout, attributes) - padding) // layout.row_nbytes
    if found < max(1, 16 * padding // layout.row_nbytes):  # where the padding matters, or one sample, it is looked at
        found = _nearly_most(layout, max_file_size, attributes)
    together = max(rows_per_page(field.nbytes, ALIGNED) for field in layout.spec.values())
    return found // together * together if found >= together else found


_known: dict[str, int] = {}  # what `_nearly_most` found, by all that it was asked


def _nearly_most(layout: Layout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Return nearly the most rows that fit, at least one."""
    parameters = None if layout.parameters is None else layout.parameters.to_json()
    parts = [layout.spec.to_json(), parameters, layout.rejected, layout.endings, max_file_size, dict(attributes)]
    asked = json.dumps(parts, default=repr)
    if asked not in _known:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[asked] = _searched(layout, max_file_size, attributes)
    return _known[asked]


def _searched(layout: Layout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Look at the sizes of files: at one where the arithmetic is right, since each takes longer than all else."""
    most = max_file_size // layout.row_nbytes
    metadata = 8 * HEADER + 2 * _texts(layout, attributes)  # about, and rather too much
    found, known, too_many = _expected_most(layout, max_file_size, metadata), 0, 1 + most
    for _ in range(LOOKS):
        found = max(1, found)
        size = file_size(layout, found, attributes)
        metadata += size - _expected_size(layout, found, metadata)
        known, too_many = (max(known, found), too_many) if size <= max_file_size else (known, min(found, too_many))
        found = min(_expected_most(layout, max_file_size, metadata), too_many - 1)
        if known and found - known <= 1 + known // 16:
            return known
    found = known
    if found < 1:
        least = file_size(layout, 1, attributes)
        if max_file_size < least:
            raise ConfigError(TOO_SMALL.format(given=max_file_size, least=least))
        found = 1
    while too_many - found > 1 + found // 16:
        middle = (found + too_many) // 2
        fits = file_size(layout, middle, attributes) <= max_file_size
        found, too_many = (middle, too_many) if fits else (found, middle)
    return found


def _expected_most(layout: Layout, max_file_size: int, metadata: int) -> int:
    """The most rows whose expected size is not larger than that; 0 for none."""
    rows = range(1, 1 + max_file_size // layout.row_nbytes)
    return bisect.bisect_right(rows, max_file_size, key=lambda number: _expected_size(layout, number, metadata))


def _expected_size(layout: Layout, rows: int, metadata: int) -> int:
    """The bytes of a file with so many rows as HDF5 lays it out, in which large columns begin with a page."""
    end = metadata
    for columns in layout.tables.values():
        for form in columns.values():
            size = rows * row_nbytes(form)
            end = size + (-(-end // ALIGNMENT) * ALIGNMENT if size >= ALIGNED else end) + HEADER
    return end


def _most_metadata(layout: Layout, attributes: Mapping[str, Any]) -> int:
    """The bytes that a file's metadata do not exceed.

    HDF5, asked for the exact number, takes ten times as long as all else in opening a writer.
    """
    return ALIGNMENT * sum(len(columns) for columns in layout.tables.values()) + 4 * _texts(layout, attributes)


def _texts(layout: Layout, attributes: Mapping[str, Any]) -> int:
    """The bytes of what a file says of itself, and of statistics."""
    parameters = layout.parameters.to_json() if layout.parameters is not None else []
    texts = len(json.dumps([layout.spec.to_json(), parameters, dict(attributes)]))
    return texts + sum(math.prod(field.shape) for field in layout.spec.values()) * len(MOMENTS) * 8


def _image(layout: Layout, capacities: Mapping[str, int], attributes: Mapping[str, Any]) -> _Image:
    image = _Image()
    with h5py.File(image, "w", libver=LIBVER) as file:  # statistics of wide fields need no pages of their own
        write_small(file, layout, attributes)
    with h5py.File(image, "r+", libver=LIBVER, alignment_threshold=ALIGNED, alignment_interval=ALIGNMENT) as file:
        for table, columns in layout.tables.items():
            for name, (shape, dtype) in columns.items():
                create_contiguous(file, name, (capacities[table], *shape), on_disk(dtype))
        describe_columns(file, layout)
    return image


def write_small(file: h5py.File, layout: Layout, attributes: Mapping[str, Any]) -> None:
    """Write everything but the columns: attributes, counters, and the place of what a seal adds."""
    spec, parameters = layout.spec, layout.parameters
    given = {
        "format": FORMAT,
        "version": VERSION,
        "fields": json.dumps(spec.to_json()),
        "parameters": json.dumps([] if parameters is None else parameters.to_json()),
    }
    for name, text in write_texts(file, given | dict(attributes)).items():
        create_contiguous(file, name, (), text_dtype(text))
        file[name][()] = text
    number = np.dtype("<u8")
    for name in (*(COUNTERS[table] for table in layout.tables), "sealed"):
        create_contiguous(file, name, (1,), number)
        file[name][0] = 0
    create_contiguous(file, "checksum", (32,), np.dtype("u1"))
    for field in real_fields(spec):
        for name, form in _statistics_forms(field).items():
            create_contiguous(file, f"statistics/{field.name}/{name}", *form)


def describe_columns(file: h5py.File, layout: Layout) -> None:
    """Write what the columns are, for readers that know no physgym."""
    for name, field in layout.spec.items():
        write_text(file[f"data/{name}"], "role", field.role)
        write_text(file[f"data/{name}"], "unit", field.unit)
    for name, field in (layout.parameters or {}).items():
        write_text(file[f"parameters/{name}"], "unit", field.unit)


def _statistics_forms(field: Field) -> dict[str, Form]:
    """The datasets of a field's statistics."""
    return {"count": ((1,), np.dtype("<u8"))} | {moment: (field.shape, np.dtype("<f8")) for moment in MOMENTS}


class _Image(io.RawIOBase):
    """What HDF5 writes while it makes a file: little, far apart, and kept in memory by pages.

    HDF5 does not say so when a disk refuses a write, and may crash later; `save` does.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._position, self._size = 0, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def tell(self) -> int:
        return self._position

    def _advance(self, length: int) -> Iterator[tuple[int, slice, slice]]:
        """The pages of the next bytes, the part of each, and the part of the bytes."""
        start, stop = self._position, self._position + length
        for page in range(start // ALIGNED, -(-stop // ALIGNED)):
            begin, end = max(start, page * ALIGNED), min(stop, (page + 1) * ALIGNED)
            yield page, slice(begin - page * ALIGNED, end - page * ALIGNED), slice(begin - start, end - start)
        self._position = stop

    def write(self, data: Any) -> int:
        for page, there, here in self._advance(len(data)):
            self._pages.setdefault(page, bytearray(ALIGNED))[there] = data[here]
        self._size = max(self._size, self._position)
        return len(data)

    def readinto(self, target: Any) -> int:
        for page, there, here in self._advance(len(target)):
            target[here] = self._pages.get(page, bytes(ALIGNED))[there]
        return len(target)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        return self._size

    def save(self, path: Path) -> None:
        """Write the file; what was left out is a hole in it."""
        with path.open("wb") as file:
            for page, data in sorted(self._pages.items()):
                file.seek(page * ALIGNED)
                file.write(data)
            file.truncate(self._size)


def create_contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A dataset whose place in the file is fixed at once and which is not filled (the file stays sparse)."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # equal samples shall give equal files
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation, links)


class Partition:
    """An existing partition file.

    Args:
        path: The file.

    Attributes:
        layout: What it holds.
        attributes: Its other attributes.
        tables: Its tables by name.
        sealed: Whether it is complete, with statistics and checksum.
        archive: Whether its rows are compressed, and read through HDF5 alone.

    Raises:
        DatasetError: The file is not a partition.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            while not self._parsed():  # a writer has replaced it meanwhile
                pass
        if self.sealed:
            self._held.close()
        for table in self.tables.values():
            if table.count > table.capacity or (self.sealed and table.count < table.capacity):
                raise DatasetError(
                    f"{path} claims {table.count} {table.name} but holds {table.capacity}; it is damaged"
                )
            for column in table.columns.values():
                if column.offset is not None and column.offset + table.count * column.row > self._identity[1]:
                    raise DatasetError(f"{path} ends before the rows of {column.name}; the copy is incomplete")

    def _parsed(self) -> bool:
        """Read everything but the rows; whether the file is still the same."""
        self._held = _Held(self.path)  # until it is parsed, so that its number does not name another file
        with h5py.File(self.path, "r") as file:
            self.attributes: dict[str, Any] = read_attributes(file, self._held.handle)
            if file.id.links.exists(GROUP.encode()):
                names = list(file[GROUP]) if _hard(file, GROUP) else []
                texts = {name: dataset_of(file, f"{GROUP}/{name}") for name in names}
                self.attributes |= {name: bytes(text[()]).decode() for name, text in texts.items()}
            if self.attributes.get("format") != FORMAT:
                raise DatasetError(f"{self.path} is an HDF5 file, but not a partition that physgym wrote")
            if self.attributes["version"] != VERSION:
                raise DatasetError(
                    f"{self.path} has version {self.attributes['version']} of the format; this physgym reads {VERSION}"
                )
            self.archive = bool(self.attributes.get("archive", False))
            fields = json.loads(str(self.attributes.pop("fields")))
            parameters = json.loads(str(self.attributes.pop("parameters")))
            if not isinstance(json.loads(self.attributes["source"]), dict):
                raise ValueError("its source is no JSON object")
            self.layout = Layout(
                SampleSpec.from_json(fields),
                SampleSpec.from_json(parameters) if parameters else None,
                *(file.id.links.exists(COUNTERS[table].encode()) for table in (REJECTED, ENDINGS)),
            )
            for field in (*self.layout.spec.values(), *(self.layout.parameters or {}).values()):
                if field.dtype.kind not in KINDS or field.dtype.names or field.dtype.subdtype:
                    raise ValueError(f"{field.name} has dtype {field.dtype}, which no partition has")
            self.sealed = bool(dataset_of(file, "sealed")[0])  # before the counts and the checksum, final then
            self._checksum = dataset_of(file, "checksum")[()].tobytes().hex() if self.sealed else ""
            self.tables = {name: self._table(file, name) for name in self.layout.tables}
        self._identity = _identity(os.fstat(self._held.handle))
        return self._identity[0] == self.path.stat().st_ino

    def _table(self, file: h5py.File, name: str) -> Table:
        columns, capacity = {}, None
        for dataset, (shape, dtype) in self.layout.tables[name].items():
            found = dataset_of(file, dataset, archive=self.archive)
            capacity = len(found) if capacity is None else capacity
            if found.shape != (capacity, *shape) or found.dtype != on_disk(dtype):
                raise ValueError(f"{dataset} holds {found.dtype} {found.shape}, not {dtype} {(capacity, *shape)}")
            columns[dataset] = Column(dataset, shape, dtype, self._offset(found))
        counter = dataset_of(file, COUNTERS[name], archive=self.archive)
        count = int(counter[0])
        return Table(name, columns, capacity or 0, count, count, self._offset(counter))

    def _offset(self, dataset: h5py.Dataset) -> int | None:
        offset: int | None = dataset.id.get_offset()
        if offset is None and dataset.size == 0:
            return 0  # nothing to read or write
        if offset is None and not self.archive:
            raise ValueError(
                f"{dataset.name} is not contiguous; a compressed copy is made by physgym export --compress"
            )
        return offset

    @property
    def spec(self) -> SampleSpec:
        """Its sample fields."""
        return self.layout.spec

    @property
    def count(self) -> int:
        """Committed samples."""
        return self.tables[SAMPLES].count

    @property
    def empty(self) -> bool:
        """Whether nothing is committed in any table."""
        return not any(table.count for table in self.tables.values())

    @property
    def current(self) -> bool:
        """Whether its file is still the one that it was read from."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the committed rows as the seal has it, hexadecimal; empty where the partition is not sealed."""
        if not self.sealed:
            return ""
        return self._checksum

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Statistics of its real-valued fields: those of the seal, or computed from the committed rows.

        A seal has no number of values per component, and those of versions before left out whole samples for one value
        that is not finite: where values are missing they are computed from the rows.
        """
        found = self._sealed_statistics() if self.sealed else {}
        if not (self.sealed and self.current):
            return self._computed(self.spec)
        doubtful = [name for name, known in found.items() if known.count != self.count]
        if doubtful:
            needed = {*doubtful, *(self.spec[name].mask for name in doubtful)}
            computed = self._computed(SampleSpec([field for field in self.spec.values() if field.name in needed]))
            found |= {name: computed[name] for name in doubtful}
        return found

    def _sealed_statistics(self) -> dict[str, Statistics]:
        found = {}
        with _readable(self.path), h5py.File(self.path, "r") as file:
            for field in real_fields(self.spec):
                group = f"statistics/{field.name}"
                forms = _statistics_forms(field)
                count, *moments = (dataset_of(file, f"{group}/{name}", archive=self.archive) for name in forms)
                if any(moment.shape != field.shape for moment in moments):
                    raise ValueError(f"{group} does not have the shape of the field")
                found[field.name] = Statistics(int(count[0]), *(moment[()] for moment in moments))
        return found

    def _computed(self, spec: SampleSpec) -> dict[str, Statistics]:
        return collect(spec, self.count, lambda name, start, stop: self.read(f"data/{name}", start, stop), COPY)

    # --- reading

    def read(self, column: str, start: int, stop: int, out: Array | None = None) -> Array:
        """Rows of a column by sequential reading.

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
        """Several runs of rows of a column; see `read`."""
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
                        self._fill(handle, target, column.offset + start * column.row)
                        if column.dtype.kind == "U":
                            target[...] = decoded(target.reshape(-1).view(on_disk(column.dtype)), column.dtype).reshape(
                                target.shape
                            )
                    yield target
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(f"cannot read {name} of {self.path}: {error}") from error

    def _column(self, name: str) -> Column:
        for table in self.tables.values():
            if name in table.columns:
                return table.columns[name]
        raise DatasetError(f"{self.path} has no column {name}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[int, Partition]]:
        """A file descriptor, and the partition whose offsets apply to it.

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
                if now.layout != self.layout or any(now.tables[k].count < t.count for k, t in self.tables.items()):
                    raise OSError("another file has taken its place; open the dataset anew")
                with now.opened() as found:
                    yield found
        finally:
            os.close(handle)

    @staticmethod
    def _target(column: Column, rows: int, out: Array | None) -> Array:
        return np.empty((rows, *column.shape), column.dtype) if out is None else out

    @staticmethod
    def _fill(handle: int, target: Array, offset: int) -> None:
        left = target.reshape(-1).view(np.uint8).data
        while left:
            got = os.preadv(handle, [left], offset)
            if not got:
                raise OSError(f"the file ends {len(left)} bytes early")
            left, offset = left[got:], offset + got

    def table(self, name: str) -> dict[str, Array]:
        """All committed rows of a table, by dataset name."""
        table = self.tables[name]
        return {column: self.read(column, 0, table.count) for column in table.columns}

    @property
    def row_bytes(self) -> int:
        """Bytes of all committed rows."""
        return sum(table.count * column.row for table in self.tables.values() for column in table.columns.values())

    def digest(self, done: Callable[[int], object] | None = None) -> str:
        """SHA-256 of the committed rows, column by column, hexadecimal.

        Args:
            done: Called with the number of bytes after each portion.
        """
        digest = hashlib.sha256()
        for table in self.tables.values():
            for column in table.columns.values():
                step = max(1, COPY // max(1, column.row))
                for start in range(0, table.count if column.row else 0, step):
                    rows = self.read(column.name, start, min(table.count, start + step))
                    digest.update(encoded(rows).reshape(-1).view(np.uint8).data)
                    if done is not None:
                        done(rows.nbytes)
        return digest.hexdigest()

    # --- writing

    @classmethod
    def create(
        cls, path: Path, layout: Layout, capacity: int, attributes: Mapping[str, Any], *, durable: bool = False
    ) -> Partition:
        """An empty partition, visible under its name only when it is whole."""
        with files.replacing(path, durable=durable) as temporary:
            _create_file(temporary, layout, dict.fromkeys(layout.tables, capacity), attributes)
        return cls(path)

    def seal(self, statistics: Mapping[str, Statistics] | None = None, *, durable: bool = False) -> Partition:
        """Complete the file with statistics and checksum; where there is room left, in a new file of exact size.

        Args:
            statistics: Of the real-valued fields, computed by default.
            durable: Whether to wait for the disk, so that a power cut undoes nothing.

        Returns:
            The sealed partition.
        """
        if self.sealed:
            return self
        statistics = statistics or self.statistics
        if any(table.count < table.capacity for table in self.tables.values()):
            return self._copy({name: table.count for name, table in self.tables.items()}, statistics, durable)
        self._finish(self.path, statistics, self.digest(), durable=durable)
        return Partition(self.path)

    def sealed_copy(self, path: Path) -> Partition:
        """What is committed, sealed and of exact size, in another file; this one stays as it is."""
        return self._copy({name: table.count for name, table in self.tables.items()}, self.statistics, False, path)

    def unseal(self, capacity: int, *, durable: bool = False) -> Partition:
        """The partition in a new file, with room for further rows."""
        return self._copy(dict.fromkeys(self.tables, capacity), None, durable)

    def _copy(
        self,
        capacities: Mapping[str, int],
        statistics: Mapping[str, Statistics] | None,
        durable: bool,
        path: Path | None = None,
    ) -> Partition:
        """Replace the file, or another one, by one of other capacities, sealed if there are statistics."""
        path = self.path if path is None else path
        attributes = {name: value for name, value in self.attributes.items() if name != "archive"}
        with files.replacing(path, durable=durable) as temporary:
            _create_file(temporary, self.layout, capacities, attributes)
            copy = Partition(temporary)
            with Appender(copy) as appender:
                for table in self.tables.values():
                    rows_at_once = max(1, COPY // max(1, max(column.row for column in table.columns.values())))
                    for start in range(0, table.count, rows_at_once):
                        stop = min(table.count, start + rows_at_once)
                        # unnamed: the next portion is not read while this one is still there
                        appender.write(table.name, {name: self.read(name, start, stop) for name in table.columns})
                appender.commit()
            if statistics is not None:
                self._finish(temporary, statistics, copy.digest(), durable=False)
        return Partition(path)

    def _finish(self, path: Path, statistics: Mapping[str, Statistics], checksum: str, *, durable: bool) -> None:
        """Write what a seal has: the metadata was written when the file was made."""
        with h5py.File(path, "r") as file:
            small = {"checksum": np.frombuffer(bytes.fromhex(checksum), np.uint8)}
            for name, s in statistics.items():
                small[f"statistics/{name}/count"] = np.array([s.count], "<u8")
                small |= {f"statistics/{name}/{moment}": getattr(s, moment) for moment in MOMENTS}
            places = {name: (file[name].id.get_offset(), value) for name, value in small.items() if value.size}
            flag = file["sealed"].id.get_offset()
        handle = files.open_regular(path, os.O_RDWR)
        try:
            for offset, value in places.values():
                pwrite_all(handle, np.ascontiguousarray(value), offset)
            if durable:
                os.fdatasync(handle)  # the flag vouches for all that was written before it
            pwrite_all(handle, np.array([1], "<u8"), flag)
            if durable:
                os.fdatasync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says of whatever HDF5 and numpy make of damaged bytes that the partition is damaged."""
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


class _Held:
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


def dataset_of(file: h5py.File, name: str, *, archive: bool = False) -> h5py.Dataset:
    """Return a dataset as only a writer of ours makes it: its bytes are in this file, and are what they seem.

    Args:
        file: The open file.
        name: Of the dataset.
        archive: Whether it may be compressed.

    Raises:
        ValueError: It is a link, virtual, kept in another file, or compressed in a way that no archive has.
    """
    if not _hard(file, name):
        raise ValueError(f"{name} is a link to another place, which no partition has")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is no dataset")
    creation = found.id.get_create_plist()
    layout = creation.get_layout()
    if creation.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise ValueError(f"the values of {name} are in another file, which no partition has")
    if layout == h5py.h5d.CHUNKED and archive:
        if foreign := {creation.get_filter(i)[0] for i in range(creation.get_nfilters())} - FILTERS:
            raise ValueError(f"{name} has the filters {sorted(foreign)}, which no archive has")
    elif layout == h5py.h5d.CHUNKED:
        raise ValueError(f"{name} is not contiguous; a compressed copy is made by physgym export --compress")
    elif layout != h5py.h5d.CONTIGUOUS:
        raise ValueError(f"{name} is not contiguous, which no partition has")
    return found


def _hard(file: h5py.File, name: str) -> bool:
    """Whether every part of a name leads to a place in this file."""
    group = file
    *above, last = name.split("/")
    for part in (*above, last):
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            return False
        if part is not last:
            group = group[part]
            if not isinstance(group, h5py.Group):
                return False
    return True


def pwrite_all(handle: int, array: Array, offset: int) -> None:
    """Write a C-contiguous array at a place of a file."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        written = os.pwrite(handle, left[:PIECE], offset)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left, offset = left[written:], offset + written


class Appender:
    """Writes rows into an open partition.

    Args:
        partition: An unsealed partition.
        durable: Whether a commit waits until the disk has it.
    """

    def __init__(self, partition: Partition, *, durable: bool = False) -> None:
        self.partition, self._durable = partition, durable
        self._handle = files.open_regular(partition.path, os.O_RDWR)

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
        *others, samples = reversed(self.partition.tables.values())
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
