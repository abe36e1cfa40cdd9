"""The capacity of a partition whose file has a largest size."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from typing import Any

from physgym.data.file_image import ALIGNED, ALIGNMENT, file_size
from physgym.data.layout import MOMENTS, PartitionLayout, row_nbytes, rows_per_page
from physgym.errors import ConfigError

HEADER = 1024  # about what HDF5 writes for a column
MOST_KNOWN, LOOKS = 1000, 3


def capacity(layout: PartitionLayout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Return the number of samples of a partition whose file is not larger than that, at least one.

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


def _nearly_most(layout: PartitionLayout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Return nearly the most rows that fit, at least one."""
    parameters = None if layout.parameters is None else layout.parameters.to_json()
    parts = [layout.spec.to_json(), parameters, layout.rejected, layout.endings, max_file_size, dict(attributes)]
    asked = json.dumps(parts, default=repr)
    if asked not in _known:
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[asked] = _searched(layout, max_file_size, attributes)
    return _known[asked]


def _searched(layout: PartitionLayout, max_file_size: int, attributes: Mapping[str, Any]) -> int:
    """Search by the sizes of files: at one where the arithmetic is right, since each takes longer than all else."""
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
            raise ConfigError(
                f"max_file_size={max_file_size} is too small: a file with a single one of these samples takes {least} "
                f"bytes, its metadata included. Set max_file_size to {least} or more"
            )
        found = 1
    while too_many - found > 1 + found // 16:
        middle = (found + too_many) // 2
        fits = file_size(layout, middle, attributes) <= max_file_size
        found, too_many = (middle, too_many) if fits else (found, middle)
    return found


def _expected_most(layout: PartitionLayout, max_file_size: int, metadata: int) -> int:
    """Return the most rows whose expected size is not larger than that; 0 for none."""
    rows = range(1, 1 + max_file_size // layout.row_nbytes)
    return bisect.bisect_right(rows, max_file_size, key=lambda number: _expected_size(layout, number, metadata))


def _expected_size(layout: PartitionLayout, rows: int, metadata: int) -> int:
    """Return the bytes of a file with so many rows as HDF5 lays it out: large columns begin with a page."""
    end = metadata
    for columns in layout.tables.values():
        for form in columns.values():
            size = rows * row_nbytes(form)
            end = size + (-(-end // ALIGNMENT) * ALIGNMENT if size >= ALIGNED else end) + HEADER
    return end


def _most_metadata(layout: PartitionLayout, attributes: Mapping[str, Any]) -> int:
    """Return the bytes that a file's metadata do not exceed.

    HDF5, asked for the exact number, takes ten times as long as all else in opening a writer.
    """
    return ALIGNMENT * sum(len(columns) for columns in layout.tables.values()) + 4 * _texts(layout, attributes)


def _texts(layout: PartitionLayout, attributes: Mapping[str, Any]) -> int:
    """Return the bytes of the attributes of a file, and of its statistics."""
    parameters = layout.parameters.to_json() if layout.parameters is not None else []
    texts = len(json.dumps([layout.spec.to_json(), parameters, dict(attributes)]))
    return texts + sum(math.prod(field.shape) for field in layout.spec.values()) * len(MOMENTS) * 8
