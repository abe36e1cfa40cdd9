"""`RowRun` and `MappedArray`: rows of partitions as an array of VTK, by a virtual dataset, without a copy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym.data.layout import SAMPLES
from physgym.data.partition import Partition

ZEROS = "physgym/zeros"  # what pads vectors of two components; takes no room in the file
VECTOR = 3  # components of a vector of VTK
Box = tuple[tuple[int, ...], tuple[int, ...]]  # first element and number of elements, by axis


@dataclass(frozen=True)
class RowRun:
    """Rows of a partition that follow one another.

    Attributes:
        part: The partition.
        start: First row.
        stop: End of the rows.
    """

    part: Partition
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return self.stop - self.start


def steps_of(runs: Sequence[RowRun]) -> int:
    """Return the number of rows of all runs, each a step of VTK."""
    return sum(run.count for run in runs)


@dataclass(frozen=True)
class MappedArray:
    """A column of partitions as VTK sees it, a row per step.

    Attributes:
        name: Name of the array.
        column: Dataset of the partition, such as "data/forces".
        shape: Shape of a row there.
        dtype: dtype of the values that VTK reads.
        extent: Shape of a step without components: (points,), (cells,), a grid, or () for a value per step.
        components: Components of a value.
        channel: Axis of the row that has the components; None where they are its last axes.
        flat: Whether steps and points are one axis of the array, as for all but images.
        unit: Unit of the values.
    """

    name: str
    column: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    extent: tuple[int, ...] = ()
    components: int = 1
    channel: int | None = None
    flat: bool = True
    unit: str = ""

    @property
    def points(self) -> int:
        """Return the values of a step, with any number of components."""
        return math.prod(self.extent)

    @property
    def padded(self) -> bool:
        """Return whether these are vectors of two components; a value per step stays as it is."""
        return self.components == VECTOR - 1 and bool(self.extent)

    @property
    def missing(self) -> Any:
        """Return what a reader finds where the file of the rows is not there."""
        if self.dtype.kind == "f":
            return np.nan
        return -1 if self.dtype.kind == "i" else np.iinfo(self.dtype).max

    def write(self, group: h5py.Group, runs: Sequence[RowRun], files: dict[Path, str]) -> h5py.Dataset:
        """Write it as a virtual dataset.

        Args:
            group: Where to.
            runs: The rows, in the order of the steps.
            files: Names of the partitions' files, as the new file is to have them.
        """
        steps = steps_of(runs)
        lead = (steps * self.points,) if self.flat else (steps, *self.extent)
        shown = VECTOR if self.padded else self.components
        whole = lead if shown == 1 else (*lead, shown)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_fill_value(np.array(self.missing, self.dtype))
        at = 0
        for run in runs:
            held = (run.part.tables[SAMPLES].capacity, *self.shape)
            source, column = _literal(files[run.part.path]), _literal(f"/{self.column}")
            for box, rows in self._boxes(at, run):
                creation.set_virtual(_chosen(whole, box), source, column, _chosen(held, rows))
            at += run.count
        if self.padded:
            size = math.prod(lead)
            zeros = zeros_of(group.file, size)
            last = _chosen(whole, ((*[0] * len(lead), self.components), (*lead, 1)))
            creation.set_virtual(last, b".", zeros.encode(), _chosen((size,), ((0,), (size,))))
        kind = h5py.h5t.py_create(self.dtype, logical=True)
        h5py.h5d.create(group.id, self.name.encode(), kind, h5py.h5s.create_simple(whole), creation)
        made = group[self.name]
        if self.unit:
            made.attrs["unit"] = self.unit
        return made

    def _boxes(self, at: int, run: RowRun) -> Iterator[tuple[Box, Box]]:
        """Yield parts of the array with the parts of the partition that they show, element by element in this order."""
        lead = (at * self.points,) if self.flat else (at, *[0] * len(self.extent))
        count = (run.count * self.points,) if self.flat else (run.count, *self.extent)
        start, size = (run.start, *[0] * len(self.shape)), (run.count, *self.shape)
        if self.components == 1:
            yield (lead, count), (start, size)
        elif self.channel is None:
            yield ((*lead, 0), (*count, self.components)), (start, size)
        else:
            axis = 1 + self.channel
            for one in range(self.components):
                box = (*start[:axis], one, *start[axis + 1 :]), (*size[:axis], 1, *size[axis + 1 :])
                yield ((*lead, one), (*count, 1)), box


def _literal(name: str) -> bytes:
    """Return the name of a source as HDF5 wants it, for which a single % begins the number of a block."""
    return name.replace("%", "%%").encode()


def source_column(name: str) -> str:
    """Return the column of partitions that a virtual dataset names as its source."""
    return name.replace("%%", "%").lstrip("/")


def _chosen(shape: tuple[int, ...], box: Box) -> Any:
    space = h5py.h5s.create_simple(shape)
    space.select_hyperslab(*box)
    return space


def constant_dataset(group: h5py.Group, name: str, shape: tuple[int, ...], value: int) -> h5py.Dataset:
    """Make a dataset of one integer, which takes no room in the file: it is HDF5's fill value."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_fill_value(np.array(value, np.int64))
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_INT64, h5py.h5s.create_simple(shape), creation)
    return group[name]


def zeros_of(file: h5py.File, size: int) -> str:
    """Return the name of a dataset of so many zeros, which takes no room in the file."""
    name = f"{ZEROS}/{size}"
    if name not in file:
        group, _, last = name.rpartition("/")
        constant_dataset(file.require_group(group), last, (size,), 0)
    return f"/{name}"


def relative_name(source: Path, folder: Path) -> str:
    """Return the name of a file as HDF5 finds it from one in a folder, wherever both are moved together."""
    return os.path.relpath(source.resolve(), folder.resolve())
