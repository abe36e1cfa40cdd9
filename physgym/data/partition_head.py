"""The head of a partition: what its file says besides its rows, as HDF5 reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physgym.data.layout import (
    COUNTERS,
    ENDINGS,
    FORMAT,
    KINDS,
    REJECTED,
    VERSION,
    PartitionLayout,
    row_nbytes,
    statistics_forms,
)
from physgym.data.recorded_file import RecordedFile
from physgym.data.statistics import real_fields
from physgym.data.texts import GROUP, on_disk, read_attributes
from physgym.errors import DatasetError
from physgym.sample import SampleSpec

FILTERS = {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, 32001, 32004, 32015}  # the last: blosc, lz4, zstd


@dataclass(frozen=True)
class ColumnPlace:
    """The place of one dataset's rows in the file.

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
        """Return the bytes of one row."""
        return row_nbytes((self.shape, self.dtype))


@dataclass(frozen=True)
class TablePlace:
    """The place of a table in the file.

    Attributes:
        columns: By dataset name.
        capacity: Rows that fit.
        counter: Offset of the number of committed rows; None where that is chunked.
    """

    columns: Mapping[str, ColumnPlace]
    capacity: int
    counter: int | None


@dataclass(frozen=True)
class SealPlace:
    """The place of what a seal adds; None for what is chunked, or is not as a writer of ours makes it.

    Attributes:
        flag: Offset of the flag that says so.
        checksum: Offset of the SHA-256 of the rows, 32 bytes.
        statistics: Offsets by field and then by the names of `statistics_forms`; None also for a value of no bytes.
    """

    flag: int | None
    checksum: int | None
    statistics: Mapping[str, Mapping[str, int | None]] | None


@dataclass(frozen=True)
class PartitionHead:
    """Content of a file but its rows and what changes with them; many files may share one.

    Attributes:
        layout: What it holds.
        attributes: Its other attributes.
        tables: Its tables by name.
        seal: Where it has what a seal adds.
        archive: Whether its rows are compressed, and read through HDF5 alone.
    """

    layout: PartitionLayout
    attributes: Mapping[str, Any]
    tables: Mapping[str, TablePlace]
    seal: SealPlace
    archive: bool


@dataclass(frozen=True)
class PartitionState:
    """Numbers of a file that change while it is written.

    Attributes:
        sealed: Whether it is complete, with statistics and checksum.
        checksum: SHA-256 of the rows, hexadecimal; empty where it is not sealed.
        counts: Committed rows of each table, by name.
    """

    sealed: bool
    checksum: str
    counts: Mapping[str, int]


def parse(path: Path, file: h5py.File, recorded: RecordedFile) -> tuple[PartitionHead, PartitionState]:
    """Read the head of a partition through HDF5.

    Args:
        path: The file.
        file: It, opened.
        recorded: Its bytes.

    Raises:
        DatasetError: It is no partition, or one of another version.
        ValueError: It is none that a writer of ours makes; HDF5 and numpy may raise other errors about damaged bytes.
    """
    attributes = read_attributes(file, recorded)
    if file.id.links.exists(GROUP.encode()):
        names = list(file[GROUP]) if _hard(file, GROUP) else []
        texts = {name: dataset_of(file, f"{GROUP}/{name}") for name in names}
        attributes |= {name: bytes(text[()]).decode() for name, text in texts.items()}
    if attributes.get("format") != FORMAT:
        raise DatasetError(f"{path} is an HDF5 file, but not a partition that physgym wrote")
    if attributes["version"] != VERSION:
        raise DatasetError(f"{path} has version {attributes['version']} of the format; this physgym reads {VERSION}")
    archive = bool(attributes.get("archive", False))
    layout = _layout(file, attributes)
    flag = dataset_of(file, "sealed")
    sealed = bool(flag[0])  # before the counts and the checksum, final then
    checksum = dataset_of(file, "checksum")
    digest = checksum[()].tobytes().hex() if sealed else ""
    tables, counts = {}, {}
    for name in layout.tables:
        tables[name], counts[name] = _table(file, layout, name, archive=archive)
    seal = SealPlace(_offset_of(flag, (1,)), _offset_of(checksum, (32,)), _statistics(file, layout))
    return PartitionHead(layout, attributes, tables, seal, archive), PartitionState(sealed, digest, counts)


def _layout(file: h5py.File, attributes: dict[str, Any]) -> PartitionLayout:
    """Return the layout that the attributes describe, which lose what it says."""
    fields = json.loads(str(attributes.pop("fields")))
    parameters = json.loads(str(attributes.pop("parameters")))
    if not isinstance(json.loads(attributes["source"]), dict):
        raise ValueError("its source is no JSON object")
    layout = PartitionLayout(
        SampleSpec.from_json(fields),
        SampleSpec.from_json(parameters) if parameters else None,
        *(file.id.links.exists(COUNTERS[table].encode()) for table in (REJECTED, ENDINGS)),
    )
    for field in (*layout.spec.values(), *(layout.parameters or {}).values()):
        if field.dtype.kind not in KINDS or field.dtype.names or field.dtype.subdtype:
            raise ValueError(f"{field.name} has dtype {field.dtype}, which no partition has")
    return layout


def _table(file: h5py.File, layout: PartitionLayout, name: str, *, archive: bool) -> tuple[TablePlace, int]:
    """Return the place of a table, and how many rows are committed."""
    columns, capacity = {}, None
    for dataset, (shape, dtype) in layout.tables[name].items():
        found = dataset_of(file, dataset, archive=archive)
        capacity = len(found) if capacity is None else capacity
        if found.shape != (capacity, *shape) or found.dtype != on_disk(dtype):
            raise ValueError(f"{dataset} holds {found.dtype} {found.shape}, not {dtype} {(capacity, *shape)}")
        columns[dataset] = ColumnPlace(dataset, shape, dtype, _row_offset(found, archive=archive))
    counter = dataset_of(file, COUNTERS[name], archive=archive)
    return TablePlace(columns, capacity or 0, _row_offset(counter, archive=archive)), int(counter[0])


def _row_offset(dataset: h5py.Dataset, *, archive: bool) -> int | None:
    offset: int | None = dataset.id.get_offset()
    if offset is None and dataset.size == 0:
        return 0  # nothing to read or write
    if offset is None and not archive:
        raise ValueError(f"{dataset.name} is not contiguous; a compressed copy is made by physgym export --compress")
    return offset


def _offset_of(dataset: h5py.Dataset, shape: tuple[int, ...]) -> int | None:
    offset: int | None = dataset.id.get_offset()
    return offset if dataset.shape == shape else None


def _statistics(file: h5py.File, layout: PartitionLayout) -> dict[str, dict[str, int | None]] | None:
    """Return where the statistics of each real-valued field are; None where they are not as a writer makes them."""
    found: dict[str, dict[str, int | None]] = {}
    try:
        for field in real_fields(layout.spec):
            found[field.name] = {}
            for name, (shape, dtype) in statistics_forms(field).items():
                dataset = dataset_of(file, f"statistics/{field.name}/{name}")
                if dataset.shape != shape or dataset.dtype != dtype:
                    return None
                found[field.name][name] = dataset.id.get_offset()
    except (KeyError, ValueError, OSError, RuntimeError):  # who reads them hears of it
        return None
    return found


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
    """Return whether every part of a name leads to a place in this file."""
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
