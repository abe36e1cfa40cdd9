"""The first samples of a dataset that has grown, as a dataset: what it was when it had no more."""

from __future__ import annotations

import shutil
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


def copy_first(folder: Path, mode: Mode, count: int, out: Path) -> None:
    """Make a dataset of the first samples of another one, byte for byte what that was when it had no more.

    Partitions are never changed, but for the last one, which takes further rows. So the ones before get a second name
    where the file system has hard links, and the rows of at most one partition are copied. Of parameters, endings and
    rejected samples those up to the last sample are taken, as a generation stores them.

    Args:
        folder: The dataset.
        mode: The part of it.
        count: How many samples.
        out: The new folder.

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
                made.append(sealed_copy(part, file, first_rows(part, min(left, part.count))))
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


def digest_of_first(part: Partition, count: int) -> str:
    """Return the checksum that a partition had when it had no more than its first samples, hexadecimal."""
    if count == part.count:
        return part.checksum or part.digest()
    return part.digest(first=first_rows(part, count))


def first_rows(part: Partition, count: int) -> dict[str, int]:
    """Return how many rows of each table belong to the first samples of a partition."""
    if count == part.count:
        return {name: table.count for name, table in part.tables.items()}
    episode, step = (int(part.read(f"index/{name}", count - 1, count)[0]) for name in ("episode", "step"))
    rows = {SAMPLES: count}
    for name, side in SideTables(part.layout, []).items():
        side.add(part.table(name))
        rows[name] = side.until(episode, step)
    return rows
