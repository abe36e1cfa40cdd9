"""The datasets that surgery reads, part by part, and the place that it writes to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from physgym.data import constants
from physgym.data.dataset import SampleDataset
from physgym.data.description import Description, Mode, check_mode, open_partitions, partition_files
from physgym.data.layout import ENDINGS, EPISODES, REJECTED, SAMPLES
from physgym.data.partition import Partition
from physgym.data.remote import fetch_dataset
from physgym.data.surgery.publishing import check_free
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute
from physgym.spaces import Array
from physgym.storage.location import Location, place

NAMES_OF = {
    SAMPLES: "index/episode",
    EPISODES: "episodes/episode",
    REJECTED: "rejected/index/episode",
    ENDINGS: "endings/episode",  # of an episode without samples too, of which all steps were rejected
}


@dataclass(frozen=True)
class SourceDataset:
    """A dataset that surgery reads.

    Attributes:
        path: Where it is: an absolute path, or the place in a storage.
        parts: Its samples by mode; those modes that have some.
        constants: What it stores once.
        metadata: What people said of it.
    """

    path: str
    parts: dict[Mode, SampleDataset]
    constants: dict[str, Array]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: str | Path | Location, mode: Mode | None = None) -> SourceDataset:
        """Open a dataset, as far as it is committed.

        Args:
            path: Its folder, or ``s3://bucket/prefix``.
            mode: Only this part; None for all.

        Raises:
            ConfigError: There is no such mode.
            DatasetError: There are no samples, or they are damaged.
        """
        if mode is not None:
            check_mode(mode)
        at = place(path)
        if isinstance(at, Path) and not at.is_dir():
            raise DatasetError(f"there is no dataset at {path}: it is no folder")
        pin = fetch_dataset(at, get_args(Mode)) if isinstance(at, Location) else None  # held until its parts are open
        folder = pin.folder if pin is not None else Path(str(at))
        found = {one: _part(at, folder, one) for one in (get_args(Mode) if mode is None else (mode,))}
        parts = {one: dataset for one, dataset in found.items() if dataset is not None}
        if not parts:
            raise DatasetError(f"{path} holds no samples{'' if mode is None else f' of the part {mode}'}")
        description = Description.read(folder)
        return cls(str(at), parts, constants.read(folder, description.constants), description.said)

    def verify(self, *, progress: bool = False) -> None:
        """Compare the samples with their checksums: what is damaged must not get a new one.

        Raises:
            DatasetError: They are not what was written.
        """
        for dataset in self.parts.values():
            dataset.verify(progress=progress)


def _part(at: Path | Location, folder: Path, mode: Mode) -> SampleDataset | None:
    """Return a part of a dataset, None where it has no samples."""
    if not partition_files(folder, mode):
        return None
    try:
        return SampleDataset(at, mode=mode)
    except DatasetError:
        if any(part.count for part in open_partitions(folder, mode)[0]):
            raise
        return None


def digest_of(dataset: SampleDataset) -> str:
    """Return the SHA-256 of the checksums of a part, hexadecimal; empty where a partition is open and has none."""
    sums = [part.checksum for part in dataset.partitions if part.count]
    return hashlib.sha256("".join(sums).encode()).hexdigest() if all(sums) else ""


def episode_range(dataset: SampleDataset) -> tuple[int, int]:
    """Return the least and the greatest number of an episode of a part, in whichever of its tables."""
    bounds = [
        (int(numbers.min()), int(numbers.max()))
        for part in dataset.partitions
        for numbers in _episode_numbers(part)
        if len(numbers)
    ]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _episode_numbers(part: Partition) -> Iterator[Array]:
    """Give the numbers of episodes in the tables of a partition."""
    for table, column in NAMES_OF.items():
        if table in part.tables:
            yield part.read(column, 0, part.tables[table].count)


def target(out: str | Path | Location | None, sources: Sequence[str | Path | Location]) -> Path | Location:
    """Return the place of a new dataset.

    Raises:
        ConfigError: There is none, it is a source, or one lies in the other.
        DatasetError: Something is there already.
    """
    if out is None or not str(out):
        raise ConfigError("add --out (out=), the folder of the new dataset: a dataset is never changed in place")
    found = place(out)
    if isinstance(found, Location):
        for source in sources:
            if str(place(source)) == str(found):
                raise ConfigError(f"{out} cannot be source and result; choose another place for the result")
        check_free(found)
        return found
    inside = absolute(found).resolve()
    for source in sources:
        if isinstance(at := place(source), Path):
            whole = at.resolve()
            if whole == inside or whole in inside.parents or inside in whole.parents:
                raise ConfigError(
                    f"{out} and the dataset {source} lie in each other; choose a folder for the result that is outside"
                )
    if found.is_symlink() or (found.exists() and not (found.is_dir() and not any(found.iterdir()))):
        raise DatasetError(f"{out} exists; choose another folder for the result")
    return found


def seen(dataset: SampleDataset) -> dict[str, Any]:
    """Return what provenance says of a part that was read."""
    return {"samples": len(dataset), "digest": digest_of(dataset)}
