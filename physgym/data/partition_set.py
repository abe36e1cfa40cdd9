"""`PartitionSet`: the partitions of a mode of a dataset while it is written; one takes rows, the full ones are sealed.

The order of a writer's locks; a thread that holds one takes none that stands before it:

1. the writer's lock, in each of its methods: the buffer, the samples that are being stored, the rows of the partitions
2. `PartitionSet.counting`: statistics, the queue of full partitions, their seals
3. the lock of `DescriptionWriter`: the description

The thread that seals takes the second one without the first, so that `append` does not wait for a seal. A claimed
folder, see `FolderClaim`, is locked against other processes all the time.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.data.description import Description, Mode, open_partitions, partition_files
from physgym.data.description_writer import DescriptionWriter
from physgym.data.folder_claim import FolderClaim
from physgym.data.layout import SAMPLES, PartitionLayout
from physgym.data.leftovers import delete_leftovers
from physgym.data.mapped_rows import MappedRows
from physgym.data.origins import check_not_made_by_surgery
from physgym.data.partition import COPY, Partition
from physgym.data.partition_file import Appender, create_partition, seal, unseal
from physgym.data.running_statistics import RunningStatistics
from physgym.data.statistics import Statistics, merged
from physgym.errors import DatasetError
from physgym.files import short
from physgym.spaces import Array

MOST_PARTITIONS = 100_000  # their names have five digits
SOON = 0.25  # s in which a full partition may be followed by the next one, whose name is written then
WAITING = 2  # full partitions that may wait for their seal before appending waits for it


def existing_partitions(folder: Path, mode: Mode, resume: bool) -> tuple[list[Partition], Description]:
    """Open the partitions that a writer continues; files that a killed writer left are deleted.

    Raises:
        DatasetError: There are some, and they shall not be continued; or they are damaged.
    """
    found = partition_files(folder, mode)
    if found and not resume:
        raise DatasetError(
            f"{short(folder)} already holds {mode} samples ({len(found)} partitions). "
            "Continue it with physgym generate --resume (resume=True), or choose another folder"
        )
    delete_leftovers(folder)
    partitions, description = open_partitions(folder, mode)
    if partitions:
        check_not_made_by_surgery(json.loads(partitions[0].attributes["source"]), f"the part {mode} of {folder}")
    named = {part.path for part in partitions}
    for file in found:
        if file not in named:  # it is empty: its writer was killed before the description named it
            file.unlink()
    return partitions, description


@dataclass(frozen=True)
class PartitionForm:
    """The form of a new partition.

    Attributes:
        mode: What its name begins with.
        layout: Its tables.
        capacity: Samples that it takes.
        attributes: Its text attributes.
        durable: Whether a commit waits for the disk.
    """

    mode: Mode
    layout: PartitionLayout
    capacity: int
    attributes: Mapping[str, str]
    durable: bool


class PartitionSet:
    """Partitions in order: the last one takes rows until it is full, then it waits for its seal.

    All methods but `seal_full`, `keep_statistics` and those of statistics are called with the writer's lock held.

    Args:
        claim: The folder.
        form: The form of new partitions.
        partitions: Those that are there.
        description: Names them.
        filled: Called when a partition waits for its seal.
        failed: Called with the error after which nothing more can be stored.

    Attributes:
        counting: The lock of statistics and seals.
    """

    def __init__(
        self,
        claim: FolderClaim,
        form: PartitionForm,
        partitions: list[Partition],
        description: DescriptionWriter,
        *,
        filled: Callable[[], None],
        failed: Callable[[DatasetError], None],
    ) -> None:
        self._claim, self._form, self._partitions, self._description = claim, form, partitions, description
        self._filled, self._failed = filled, failed
        self.counting = threading.RLock()
        self._statistics = RunningStatistics(form.layout.spec)
        self._full = deque(part for part in partitions[:-1] if not part.sealed)
        self._appender: Appender | None = None
        self._ended = 0  # partitions that take no more
        self._counted: tuple[Any, int] = None, 0  # the first partition and how many there are; samples before the last
        self._undescribed, self._filled_at = False, 0.0  # whether there are seals to describe; when the last one filled

    # --- what there is

    @property
    def written(self) -> int:
        """Return the number of samples that are written, committed or not."""
        return self._before_last() + (self._partitions[-1].tables[SAMPLES].written if self._partitions else 0)

    @property
    def committed(self) -> int:
        """Return the number of samples that are committed."""
        return self._before_last() + (self._partitions[-1].count if self._partitions else 0)

    def _before_last(self) -> int:
        """Return the samples of all partitions but the last one, which takes further ones; there may be thousands."""
        parts = self._partitions
        which = (parts[0], len(parts)) if parts else None
        if self._counted[0] != which:
            self._counted = which, sum(part.count for part in parts[:-1])
        return self._counted[1]

    @property
    def last(self) -> tuple[int, int] | None:
        """Return episode and step of the last sample that is written, None if there is none."""
        for part in reversed(self._partitions):
            written = part.tables[SAMPLES].written
            if written:
                episode, step = (
                    int(part.read(f"index/{name}", written - 1, written)[0]) for name in ("episode", "step")
                )
                return episode, step
        return None

    def names(self) -> Iterator[tuple[Array, Array]]:
        """Give episodes and steps of all samples that are written, in portions."""
        for part in self._partitions:
            written = part.tables[SAMPLES].written
            step = COPY // 16
            for start in range(0, written, step):
                stop = min(written, start + step)
                episodes, steps = (part.read(f"index/{name}", start, stop) for name in ("episode", "step"))
                yield episodes, steps

    def statistics(self) -> dict[str, Statistics]:
        """Compute statistics of all committed samples, by real-valued field."""
        with self.counting:
            parts = (p.statistics if p.sealed else self._statistics.of(p) for p in self._partitions)
            return merged(parts, self._form.layout.spec)

    def write_description(self) -> None:
        """Write the description if there are partitions to name."""
        if self._partitions:
            self._description.write(self._partitions)

    def drop_oldest(self, count: int) -> None:
        """Drop the oldest partitions, at most those that are sealed; the last one stays.

        Raises:
            DatasetError: The dataset is not bounded, or the disk refuses.
        """
        with self.counting:
            sealed = [part.sealed for part in self._partitions[:-1]]
            dropped = self._partitions[: min(count, sealed.index(False) if False in sealed else len(sealed))]
            if not dropped:
                return
            self._description.note_dropped(dropped)
            self._partitions = self._partitions[len(dropped) :]
            self._ended = max(0, self._ended - len(dropped))
            self._description.write(self._partitions)  # first: a file that is named is there
        for part in dropped:
            with self.disk(self._partitions[-1]):
                part.path.unlink(missing_ok=True)

    # --- storing

    def snapshot(self) -> tuple[int, list[tuple[Any, int]]]:
        """Return which partitions take no more, and how many rows of the open one are written."""
        tables = [] if self._appender is None else list(self._appender.partition.tables.values())
        return self._ended, [(table, table.written) for table in tables]

    def restore(self, state: tuple[int, list[tuple[Any, int]]]) -> None:
        """Take rows that were written since as not written."""
        self._ended, tables = state
        for table, count in tables:
            table.written = count

    def with_room(self) -> Appender:
        """Return the appender of a partition that takes further samples.

        Raises:
            DatasetError: The disk refuses.
        """
        if self._appender is not None:
            if self._ended < len(self._partitions):
                return self._appender
            self._rotate()
        ended = 0 < len(self._partitions) == self._ended
        current, form = self._partitions[-1] if self._partitions else None, self._form
        number = 1 + (-1 if current is None else int(current.path.stem[-5:]))
        file = self._claim.path / f"{form.mode}-{number:05d}.h5"
        try:
            self._claim.check()
            if number == MOST_PARTITIONS:
                raise DatasetError("a dataset has 100000 partitions at most; begin another one with larger ones")
            part_full = current is None or current.archive or current.count >= form.capacity
            if current is not None and current.sealed and not part_full and not ended:
                # so that a dataset does not depend on the portions in which it was made
                file = current.path
                # first: what it says of a partition holds for a reader at any time
                self._description.write(self._partitions, reopened=file)
                current = self._partitions[-1] = unseal(current, form.capacity, durable=form.durable)
            if current is None or current.sealed or ended or not current.tables[SAMPLES].room:
                if current is not None and not current.sealed and current not in self._full:
                    self._full.append(current)
                current = create_partition(file, form.layout, form.capacity, form.attributes, durable=form.durable)
                self._partitions.append(current)
            # named before it has rows, so that no kill makes a file with samples that the description does not know
            if not self._description.names_open(current):
                self._description.write(self._partitions)
            self._appender = Appender(current, durable=form.durable)
        except (OSError, RuntimeError, ValueError, DatasetError) as error:  # h5py reports a full disk as any of them
            raise self._fail(
                f"cannot create {file}: {error}. The {self.committed} committed samples of the dataset are intact; "
                "free space or repair the folder, then resume"
            ) from error
        return self._appender

    def mapped(self) -> MappedRows | None:
        """Return the samples of the open partition in a map of its file; None without one, or where it is full."""
        if self._appender is None or self._ended == len(self._partitions):
            return None
        return self._appender.mapped()

    @contextlib.contextmanager
    def disk(self, part: Partition) -> Iterator[None]:
        """Translate what the disk says of a block that writes to a partition; it is the last one then."""
        try:
            self._claim.check()
            if not part.path.exists():
                raise FileNotFoundError(2, "it was removed while it was written")
            yield
        except OSError as error:
            raise self._fail(
                f"cannot write to {part.path}: {error.strerror or error}. The {self.committed} committed samples of "
                "the dataset are intact; free space or repair the folder, then resume"
            ) from error

    def end_last(self) -> None:
        """Let the last partition take no more; the next call of `rotate_ended` commits it."""
        self._ended = len(self._partitions)

    def rotate_ended(self) -> None:
        """Leave the last partition to be sealed if it takes no more."""
        if self._ended == len(self._partitions):
            self._rotate()

    def commit(self, *, wait: bool = True) -> None:
        """Make everything written so far count.

        Args:
            wait: Whether to commit also where that waits for the disk.
        """
        if self._appender is not None and (wait or not self._form.durable) and not self._appender.commit_in_place():
            with self.disk(self._appender.partition):
                self._appender.commit()

    def _rotate(self) -> None:
        """Commit the partition, which is full, and leave it to the thread to seal it."""
        assert self._appender is not None
        self.commit()
        appender, self._appender = self._appender, None
        appender.close()
        self._full.append(appender.partition)  # interrupted before it: `with_room` does that
        self._filled_at = time.monotonic()
        self._filled()
        while len(self._full) > WAITING:
            self._seal_one()

    def _fail(self, text: str) -> DatasetError:
        """Return the error after which nothing more is taken; what was not committed is given up."""
        error = DatasetError(text)
        self._failed(error)
        for part in self._partitions:
            for table in part.tables.values():
                table.written = table.count
        return error

    # --- sealing

    def seal_full(self, until: Callable[[], bool]) -> None:
        """Seal the partitions that wait for it, as long as a condition does not hold.

        What the description says of them is written with the name of the next partition, or here, where none has come
        for a while.
        """
        while self._full and not until():
            self._seal_one()
        if self._undescribed and time.monotonic() - self._filled_at > SOON:
            with self.counting:
                self._describe()

    def _describe(self) -> None:
        self._undescribed = False
        self._description.write(self._partitions)

    def keep_statistics(self) -> None:
        """Take the rows of the open partition into its statistics."""
        with self.counting:  # a partition that is sealed within would be counted in vain
            current = self._partitions[-1] if self._partitions else None
            if current is not None and not current.sealed:
                self._statistics.of(current)

    def _seal_one(self) -> None:
        """Seal the partition that has waited longest."""
        with self.counting:
            if not self._full:
                return
            self._seal(self._full[0])
            self._full.popleft()
            self._undescribed = True

    def _seal(self, part: Partition) -> None:
        try:
            self._claim.check()
            with self.counting:
                known = self._statistics.of(part)
            sealed = seal(part, known, durable=self._form.durable)
        except (OSError, RuntimeError, DatasetError) as error:  # h5py reports a full disk as any of them
            raise DatasetError(
                f"cannot complete {part.path}: {error}. The {self.committed} committed samples of the dataset are "
                "intact; free space or repair the folder, then resume"
            ) from error
        self._statistics.forget(part)
        for i, other in enumerate(self._partitions):
            if other is part:
                self._partitions[i] = sealed

    # --- closing

    def complete(self, *, seal: bool) -> None:
        """Complete the dataset: seal what waits for it and the last partition, describe all of them.

        Args:
            seal: Whether to seal; without, partitions stay open.
        """
        self.close()
        while self._full and seal:
            self._seal_one()
        last = self._partitions[-1] if self._partitions else None
        if last is not None and not last.sealed:
            if last.empty:
                self._partitions.pop()
                self._description.write(self._partitions)  # first: a file that is named is there
                last.path.unlink()
            elif seal:
                self._seal(last)
        self._description.complete(self._partitions)

    def close(self) -> None:
        """Close the open file; calling it again does no harm."""
        if self._appender is not None:
            self._appender.close()
            self._appender = None
