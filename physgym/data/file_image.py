"""The metadata of a partition's file, as HDF5 writes it once: made in memory, then saved under the file's name."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym.data.layout import COUNTERS, FORMAT, VERSION, PartitionLayout, statistics_forms
from physgym.data.statistics import real_fields
from physgym.data.texts import on_disk, text_dtype, write_text, write_texts
from physgym.interrupt import signals_wait

# the oldest superblock that holds large files: it leaves no consistency flag behind when a writer dies
LIBVER = ("earliest", "v110")
ALIGNMENT = 1 << 16  # bytes; whole pages everywhere, so that columns can be memory-mapped
ALIGNED = 1 << 12  # bytes; smaller datasets need not be aligned
MOST_IMAGES = 16  # that are kept: the partitions of a dataset differ in how many rows of side tables they have


def file_size(layout: PartitionLayout, capacity: int, attributes: Mapping[str, Any]) -> int:
    """Return the bytes of a partition with room for so many rows in every table, its metadata included."""
    return _made(layout, dict.fromkeys(layout.tables, capacity), attributes).size


def header_image(layout: PartitionLayout, capacities: Mapping[str, int], attributes: Mapping[str, Any]) -> _HeaderImage:
    """Return the metadata of a file without rows, with room for so many in each table."""
    global _last_images
    form = _descriptions(layout), list(layout.tables), dict(capacities), _with_types(attributes)
    image = next((image for other, image in _last_images if other == form), None)
    if image is None:
        image = _made(layout, capacities, attributes)
        _last_images = ((form, image), *_last_images)[:MOST_IMAGES]
    return image


def _made(layout: PartitionLayout, capacities: Mapping[str, int], attributes: Mapping[str, Any]) -> _HeaderImage:
    image = _HeaderImage()
    aligned = {"alignment_threshold": ALIGNED, "alignment_interval": ALIGNMENT}
    # statistics of wide fields need no pages of their own
    with signals_wait(), h5py.File(image, "w", libver=LIBVER) as file:
        write_small(file, layout, attributes)
    with signals_wait(), h5py.File(image, "r+", libver=LIBVER, **aligned) as file:
        for table, columns in layout.tables.items():
            for name, (shape, dtype) in columns.items():
                create_contiguous(file, name, (capacities[table], *shape), on_disk(dtype))
        describe_columns(file, layout)
    return image


def write_small(file: h5py.File, layout: PartitionLayout, attributes: Mapping[str, Any]) -> None:
    """Write everything but the columns: attributes, counters, and the place of what a seal adds."""
    given = {"format": FORMAT, "version": VERSION, **_descriptions(layout)}
    for name, text in write_texts(file, given | dict(attributes)).items():
        create_contiguous(file, name, (), text_dtype(text))
        file[name][()] = text
    number = np.dtype("<u8")
    for name in (*(COUNTERS[table] for table in layout.tables), "sealed"):
        create_contiguous(file, name, (1,), number)
        file[name][0] = 0
    create_contiguous(file, "checksum", (32,), np.dtype("u1"))
    for field in real_fields(layout.spec):
        for name, form in statistics_forms(field).items():
            create_contiguous(file, f"statistics/{field.name}/{name}", *form)


def _descriptions(layout: PartitionLayout) -> dict[str, str]:
    """Return the texts that say all of fields and parameters; layouts are equal that differ in what feeds what."""
    spec, parameters = layout.spec, layout.parameters
    return {
        "fields": json.dumps(spec.to_json()),
        "parameters": json.dumps([] if parameters is None else parameters.to_json()),
    }


def _with_types(attributes: Mapping[str, Any]) -> dict[str, tuple[type, Any]]:
    """Return values with their types: a flag is equal to a number, and written in another way."""
    return {name: (type(value), value) for name, value in attributes.items()}


def describe_columns(file: h5py.File, layout: PartitionLayout) -> None:
    """Write role and unit of the columns, for readers that know no physgym."""
    for name, field in layout.spec.items():
        write_text(file[f"data/{name}"], "role", field.role)
        write_text(file[f"data/{name}"], "unit", field.unit)
    for name, field in (layout.parameters or {}).items():
        write_text(file[f"parameters/{name}"], "unit", field.unit)


class _HeaderImage(io.RawIOBase):
    """A file for HDF5 to write its metadata into: little, with wide gaps, and kept in memory by pages.

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
        """Return the bytes of the file."""
        return self._size

    def tell(self) -> int:
        return self._position

    def _advance(self, length: int) -> Iterator[tuple[int, slice, slice]]:
        """Give the pages of the next bytes, the part of each, and the part of the bytes."""
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


_last_images: tuple[tuple[tuple[Any, ...], _HeaderImage], ...] = ()  # the last ones that were made, replaced as a whole


def create_contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a dataset whose place in the file is fixed at once and which is not filled (the file stays sparse)."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)  # equal samples shall give equal files
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation, links)
