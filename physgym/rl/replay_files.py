"""`ReplayFiles`: the recording of a replay on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.description import Mode, open_partitions, partition_files
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError, PhysGymError
from physgym.rl.recorded_code import RecordedCode
from physgym.sample import SampleSpec
from physgym.spaces import Array

MODE: Mode = "training"
LARGEST = 1 << 42  # bytes of a file, whose rows alone are limited
PORTION = 1 << 24  # bytes that are read at a time


class ReplayDiffers(PhysGymError):
    """A row is another one than a recording has from the run that is resumed: the environments do not do the same."""


class ReplayFiles:
    """Rows of a replay in the files of a dataset, all but the last one of the same number of rows.

    Args:
        path: The folder.
        every: Rows of a file.
        bounded: Whether old files are deleted.
        source: JSON data that says where the samples come from.
        attributes: Further text attributes of the partitions.
        code: The code of the environments; None records nothing of it.
        resume: Whether to continue with what is there.

    Attributes:
        stored: How many rows there were when it was opened, those that were deleted included.

    Raises:
        DatasetError: There are samples already, and `resume` is not set; or they are damaged.
        ChangedCode: They were recorded of other code.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        bounded: bool,
        source: Mapping[str, Any],
        attributes: Mapping[str, str],
        code: RecordedCode | None,
        resume: bool,
    ) -> None:
        self.path, self._every, self._bounded, self._source = path, every, bounded, source
        self._attributes, self._code = attributes, code
        self._parts: list[Partition] = []
        self._first = 0  # the first row that was not deleted
        self._writer: SampleWriter | None = None
        self._resume = resume
        if not resume and partition_files(path, MODE):
            raise DatasetError(
                f"{path} holds the replay of another training; continue with that one (resume=True), or choose another "
                "session"
            )
        if code is not None:
            code.check(path, MODE)
        if resume and path.is_dir():
            self._parts, _ = open_partitions(path, MODE)
            self._first = int(self._parts[0].path.stem[-5:]) * every if self._parts else 0
        self.stored = self._first + sum(part.count for part in self._parts)

    @property
    def spec(self) -> SampleSpec:
        """Return the fields of the rows that were there when it was opened."""
        return self._parts[0].spec

    def check(self, rows: int) -> None:
        """Raise DatasetError unless the first rows are there, so many with those that were deleted."""
        if any(part.count != self._every for part in self._parts[:-1]):
            raise DatasetError(f"{self.path} has files of other lengths than {self._every} rows: it is no replay")
        if self.stored < rows:
            raise DatasetError(
                f"{self.path} ends after {self.stored} rows, and the checkpoint needs the first {rows}: it was made by "
                "another run, or files were removed. Restore them, or take an earlier checkpoint"
            )

    def read(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield rows that were there when it was opened, in portions: the first row, and its columns."""
        if start < self._first and start < stop:
            raise DatasetError(
                f"{self.path} has no rows before {self._first} any more, and the checkpoint needs those from {start} "
                "on; take a later checkpoint"
            )
        begin = self._first
        for part in self._parts:
            columns = part.tables["samples"].columns
            step = max(1, PORTION // max(1, sum(column.row for column in columns.values())))
            low, high = max(start, begin) - begin, min(stop, begin + part.count) - begin
            for at in range(low, high, step):
                end = min(high, at + step)
                yield begin + at, {name.removeprefix("data/"): part.read(name, at, end) for name in columns}
            begin += part.count

    def episodes(self) -> Array:
        """Return the numbers of the episodes that were there when it was opened."""
        found = [part.read("index/episode", 0, part.count) for part in self._parts]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def take(self, spec: SampleSpec, rows: Mapping[str, Array], start: int) -> None:
        """Store rows, or compare them where they are stored already.

        Args:
            spec: Their fields.
            rows: Columns of shape (n, *shape).
            start: The number of the first one.

        Raises:
            ReplayDiffers: What is stored is something else.
            DatasetError: The disk refuses.
        """
        count = len(rows["index/step"])
        same = max(0, min(count, self.stored - start))
        for begin, stored in self.read(start, start + same) if same else ():
            for name, values in stored.items():
                mine = rows[name][begin - start : begin - start + len(values)]
                if mine.tobytes() != np.ascontiguousarray(values, mine.dtype).tobytes():
                    raise ReplayDiffers(f"{name} of the rows from {begin} on")
        if same == count:
            return
        writer = self._open(spec)
        part = {name: values[same:] for name, values in rows.items()}
        writer.append(
            {name: part[name] for name in spec},
            **{name: part[f"index/{name}"] for name in ("episode", "step", "seed", "env")},
        )

    def _open(self, spec: SampleSpec) -> SampleWriter:
        if self._writer is None:
            self._writer = SampleWriter(
                self.path,
                spec,
                mode=MODE,
                source=self._source,
                attributes=self._attributes,
                resume=self._resume,
                max_rows=self._every,
                max_file_size=LARGEST,
                nonfinite="allow",  # the replay has looked
                bounded=self._bounded,
            )
            if self._code is not None:
                self._code.record(self._writer)
        return self._writer

    def commit(self) -> None:
        """Make all rows readable, also after this process is killed."""
        if self._writer is not None:
            self._writer.commit()

    def drop_before(self, row: int) -> None:
        """Delete the files of a bounded replay whose rows all come before one."""
        if self._bounded and self._writer is not None and (count := row // self._every - self._writer.dropped) > 0:
            self._writer.drop_oldest(count)  # one that is not sealed yet goes the next time

    def close(self) -> None:
        """Complete the dataset; calling it again does no harm."""
        if self._writer is not None:
            self._writer.close()
