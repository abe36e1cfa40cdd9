"""A partition: one plain HDF5 file of samples that is readable whatever happens to its writer.

HDF5 writes the file's metadata once, under a temporary name: contiguous datasets of a fixed capacity. From then on
rows are written at the datasets' offsets, and a commit is one write of 8 bytes, the number of samples, after the rows.
A reader therefore sees either a whole batch or nothing of it. Closing seals the file: its rows are copied to a file of
the exact size, which replaces it.

Layout: ``data/<field>`` and ``index/{episode,step,seed}`` with one row per sample, ``num_samples``, and attributes
``format``, ``version``, ``sealed``, ``fields`` (JSON), ``mode``, ``source`` (JSON).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym.errors import DatasetError
from physgym.sample import SampleSpec
from physgym.spaces import Array

FORMAT = "physgym-partition"
VERSION = 1
COUNT = "num_samples"
INDEX = {"episode": np.dtype("<i8"), "step": np.dtype("<i8"), "seed": np.dtype("<u8")}
# the oldest superblock that holds large files: it leaves no consistency flag behind when a writer dies
LIBVER = ("earliest", "v110")


@dataclass(frozen=True)
class Column:
    """Where the rows of one dataset lie in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def columns_of(spec: SampleSpec) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Names, row shapes and dtypes of a partition's datasets."""
    columns: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        f"data/{name}": (field.shape, field.dtype) for name, field in spec.items()
    }
    return columns | {f"index/{name}": ((), dtype) for name, dtype in INDEX.items()}


def row_bytes(spec: SampleSpec) -> int:
    """Bytes of one sample on disk, its index included."""
    return spec.nbytes + sum(dtype.itemsize for dtype in INDEX.values())


def replace_durably(temporary: Path, final: Path) -> None:
    """Give a finished file its final name so that a power cut leaves the old file or the new one."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create_file(path: Path, spec: SampleSpec, capacity: int, attributes: Mapping[str, Any], *, count: int) -> None:
    with h5py.File(path, "w", libver=LIBVER) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "fields": json.dumps(spec.to_json()), **attributes})
        for name, (shape, dtype) in columns_of(spec).items():
            _contiguous(file, name, (capacity, *shape), dtype)
        _contiguous(file, COUNT, (1,), np.dtype("<u8"))
        file[COUNT][0] = count
        for name, field in spec.items():
            file[f"data/{name}"].attrs.update({"role": field.role, "unit": field.unit})


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A dataset whose place in the file is fixed at once and which is not filled (the file stays sparse)."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation, links)


class Partition:
    """An existing partition file.

    Args:
        path: The file.

    Attributes:
        spec: Its sample fields.
        attributes: Its other attributes.
        capacity: Rows that its datasets hold.
        count: Committed samples.

    Raises:
        DatasetError: The file is not a partition.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise DatasetError(f"{path} is an HDF5 file, but not a partition that physgym wrote")
                if file.attrs["version"] != VERSION:
                    raise DatasetError(f"{path} has version {file.attrs['version']}; this physgym reads {VERSION}")
                self.attributes = {name: _plain(value) for name, value in file.attrs.items()}
                self.spec = SampleSpec.from_json(json.loads(self.attributes["fields"]))
                self.columns = {name: self._column(file[name]) for name in columns_of(self.spec)}
                self.capacity = len(file["index/episode"])
                self.count = int(file[COUNT][0])
                self._count_offset = self._column(file[COUNT]).offset
        except (OSError, KeyError, ValueError) as error:
            raise DatasetError(
                f"{path} is not a readable partition ({error}). Move it away; the others remain usable"
            ) from error
        if self.count > self.capacity:
            raise DatasetError(f"{path} claims {self.count} samples but holds {self.capacity}; it is damaged")

    def _column(self, dataset: h5py.Dataset) -> Column:
        offset = dataset.id.get_offset()
        if offset is None and dataset.size == 0:
            offset = 0  # nothing to read or write
        if offset is None:
            raise DatasetError(
                f"{self.path}: {dataset.name} is not contiguous; export it instead of converting in place"
            )
        return Column(dataset.name.lstrip("/"), dataset.shape[1:], dataset.dtype, offset)

    @property
    def sealed(self) -> bool:
        """Whether the file is complete and of exact size."""
        return bool(self.attributes["sealed"])

    def map(self) -> dict[str, Array]:
        """Read-only memory maps of the committed rows, by dataset name."""
        return {
            name: np.memmap(self.path, c.dtype, "r", c.offset, (self.count, *c.shape))
            if self.count and c.row
            else np.empty((self.count, *c.shape), c.dtype)
            for name, c in self.columns.items()
        }

    @classmethod
    def create(cls, path: Path, spec: SampleSpec, capacity: int, attributes: Mapping[str, Any]) -> Partition:
        """An empty partition, visible under its name only when it is whole."""
        temporary = path.with_suffix(".tmp")
        _create_file(temporary, spec, capacity, {**attributes, "sealed": False}, count=0)
        replace_durably(temporary, path)
        return cls(path)

    def seal(self) -> None:
        """Copy the committed rows to a file of exact size, which takes this one's place."""
        if self.sealed:
            return
        kept = {k: v for k, v in self.attributes.items() if k not in ("format", "version", "fields", "sealed")}
        temporary = self.path.with_suffix(".tmp")
        _create_file(temporary, self.spec, self.count, {**kept, "sealed": True}, count=self.count)
        with h5py.File(temporary, "r+", libver=LIBVER) as file:
            for name, rows in self.map().items():
                if rows.size:
                    file[name][...] = rows
        replace_durably(temporary, self.path)
        self.__init__(self.path)  # type: ignore[misc]  # offsets and capacity are those of the new file

    def appender(self) -> Appender:
        """A writer of further rows."""
        return Appender(self)

    @property
    def count_offset(self) -> int:
        """Where the number of committed samples lies in the file."""
        return self._count_offset


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class Appender:
    """Writes rows into an open partition.

    Args:
        partition: An unsealed partition.
    """

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._fd = os.open(partition.path, os.O_RDWR)

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return self.partition.capacity - self.partition.count

    def append(self, rows: Mapping[str, Array]) -> None:
        """Write rows (dataset name to array (n, *row shape)) and commit them; n is at most `room`.

        Raises:
            DatasetError: The disk refuses the write; everything committed before stays readable.
        """
        part = self.partition
        added = len(rows["index/episode"])
        try:
            for name, column in part.columns.items():
                data = np.ascontiguousarray(rows[name], column.dtype)
                if data.size:
                    self._write(data.data.cast("B"), column.offset + part.count * column.row)
            self._write(memoryview((part.count + added).to_bytes(8, "little")), part.count_offset)
        except OSError as error:
            raise DatasetError(
                f"cannot write to {part.path}: {error.strerror}. Its {part.count} committed samples are intact; "
                "free space or repair the folder, then resume"
            ) from error
        part.count += added

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def close(self) -> None:
        """Close the file without sealing it; calling it again does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
