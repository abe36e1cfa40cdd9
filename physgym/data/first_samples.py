"""The first samples of a dataset that has grown, as a dataset: what it was when it had no more."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from physgym.data import constants
from physgym.data.description import Mode, describe_partitions, open_partitions
from physgym.data.layout import SAMPLES
from physgym.data.partition import Partition
from physgym.data.partition_file import sealed_copy
from physgym.data.provenance import runs_of
from physgym.data.side_tables import SideTables
from physgym.errors import DatasetError
from physgym.files import add_name

TableEnd = tuple[int, int]  # episode and step
MOST_ENDS = 16  # episodes without a sample behind the first ones, whose ends may have been stored


def possible_ends(partitions: Sequence[Partition], count: int) -> list[TableEnd | None]:
    """Return up to which names parameters, endings and rejected samples may have been stored with the first samples.

    That is the last sample (None), or the last step of the last episode, where a generation ended with that; or what
    comes before the next sample.

    Args:
        partitions: All samples.
        count: How many are the first ones.
    """
    for part in partitions:
        if 0 < count < part.count:
            names = [part.read(f"index/{name}", count - 1, count + 1).tolist() for name in ("episode", "step")]
            (last, following), (_, step) = names
            episodes = range(last, min(following, last + MOST_ENDS))
            return [None, *((episode, sys.maxsize) for episode in episodes), (following, step - 1)]
        count -= part.count
    return [None]


def copy_first(folder: Path, mode: Mode, count: int, out: Path, end: TableEnd | None = None) -> None:
    """Make a dataset of the first samples of another one, byte for byte what that was when it had no more.

    Partitions are never changed, but for the last one, which takes further rows. So the ones before get a second name
    where the file system has hard links, and the rows of at most one partition are copied. A partition without samples,
    which may have held rejected ones alone, is left out.

    Args:
        folder: The dataset.
        mode: The part of it.
        count: How many samples.
        out: The new folder.
        end: Which parameters, endings and rejected samples belong to them, of `possible_ends`.

    Raises:
        DatasetError: It has not so many, is damaged, or the disk refuses.
    """
    partitions, described = open_partitions(folder, mode)
    try:
        out.mkdir(parents=True)
        made, left = [], count
        for part in partitions:
            if left <= 0:
                break
            file = out / part.path.name
            if part.sealed and part.count <= left:
                _link(part.path, file)
                made.append(Partition(file))
            else:
                made.append(sealed_copy(part, file, first_rows(part, min(left, part.count), end)))
            left -= part.count
        if left > 0:
            raise DatasetError(f"{folder} has {count - left} {mode} samples, not {count}")
        if (folder / constants.CONSTANTS).is_file():
            _link(folder / constants.CONSTANTS, out / constants.CONSTANTS)
        provenance = described.provenance(mode)
        if runs := runs_of(provenance):
            provenance = {**provenance, "runs": [run for run in runs if int(run.get("samples", 0)) < count]}
        replace(described, modes={mode: describe_partitions(made, provenance)}).write(out)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error.strerror or error}") from error


def _link(file: Path, name: Path) -> None:
    try:
        add_name(file, name)
    except OSError:  # another file system, or one without such links
        shutil.copyfile(file, name)


def digest_of_first(part: Partition, count: int, end: TableEnd | None = None) -> str:
    """Return the checksum that a partition had when it had no more than its first samples, hexadecimal.

    Args:
        part: The partition.
        count: How many are the first ones.
        end: As of `possible_ends`.
    """
    if count == part.count:
        return part.checksum or part.digest()
    return part.digest(first=first_rows(part, count, end))


def first_rows(part: Partition, count: int, end: TableEnd | None = None) -> dict[str, int]:
    """Return how many rows of each table belong to the first samples of a partition; see `digest_of_first`."""
    if count == part.count:
        return {name: table.count for name, table in part.tables.items()}
    names = (int(part.read(f"index/{name}", count - 1, count)[0]) for name in ("episode", "step"))
    episode, step = names if end is None else end
    rows = {SAMPLES: count}
    for name, side in SideTables(part.layout, []).items():
        side.add(part.table(name))
        rows[name] = side.until(episode, step)
    return rows
