"""The folders of a dataset, opened: their partitions of one mode, in order, and what describes them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physgym.data import constants
from physgym.data.continuing import BOUNDED
from physgym.data.dataset_parts import METADATA, EpisodeSplit, recorded_split
from physgym.data.description import UNKNOWN, Description, Mode, open_partitions
from physgym.data.joined_tables import check_fields
from physgym.data.partition import Partition
from physgym.errors import DatasetError
from physgym.progress import Progress
from physgym.spaces import Array
from physgym.storage.location import Location

if TYPE_CHECKING:
    from physgym.storage.cache import Pin


class OpenedFolders:
    """Partitions and descriptions of one or several folders, as they were when they were opened.

    Args:
        places: Where the folders are.
        mode: Which part of them.
        fetched: How many samples to fetch from S3, None for all.
        known: Sealed partitions that are kept if nothing has replaced them, by path.

    Attributes:
        paths: The folders on this machine.
        numbered: The partitions, in order, each with the number of its folder.
        counts: Samples of each folder.
        bounds: First row of each partition, and the end of the last one, shape (partitions + 1,).
        total: Number of samples.

    Raises:
        DatasetError: A folder has no samples of this mode, a partition is damaged, or fields differ.
    """

    def __init__(
        self,
        places: Sequence[Path | Location],
        mode: Mode,
        fetched: int | None,
        known: Mapping[Path, Partition] | None = None,
    ) -> None:
        self.places, self.mode, self._fetched = places, mode, fetched
        self._pins = self._fetch()
        self.paths = [found if isinstance(found, Path) else self._pins[i].folder for i, found in enumerate(places)]
        opened = [self._open(folder, known or {}) for folder in range(len(places))]
        self.numbered = [(i, part) for i, (parts, _) in enumerate(opened) for part in parts]
        check_fields(self.partitions)
        self._descriptions = [description for _, description in opened]
        self.counts = [sum(part.count for part in parts) for parts, _ in opened]
        self.bounds = np.cumsum([0, *(part.count for part in self.partitions)])
        self.total = int(self.bounds[-1])

    def _fetch(self) -> dict[int, Pin]:
        """Bring what is in S3 to the cache, whose folders are held there as long as they are in use."""
        pins = {}
        for i, found in enumerate(self.places):
            if isinstance(found, Location):
                from physgym.data.remote import fetch_dataset

                pins[i] = fetch_dataset(found, (self.mode,), self._fetched)
        return pins

    def _open(self, number: int, known: Mapping[Path, Partition]) -> tuple[list[Partition], Description]:
        """Open the partitions of a folder but those known that were not replaced; read its description."""
        folder = self.paths[number]
        if not folder.is_dir():
            raise DatasetError(f"there is no dataset at {folder}")
        partitions, description = open_partitions(folder, self.mode, known)
        shown = self.places[number]
        if self.mode in description.unfinished:
            raise DatasetError(
                f"{shown} holds {self.mode} samples of an import that was killed, or is at work, so that some are "
                "missing. Import them again, which replaces these"
            )
        if not sum(part.count for part in partitions):
            raise DatasetError(f"{shown} holds no {self.mode} samples; generate some first, or choose another mode")
        return partitions, description

    def again(self) -> OpenedFolders:
        """Open what there is now; sealed partitions are kept."""
        known = {part.path: part for part in self.partitions if part.sealed}
        return OpenedFolders(self.places, self.mode, self._fetched, known)

    @property
    def partitions(self) -> list[Partition]:
        """Return the files, in order."""
        return [part for _, part in self.numbered]

    @property
    def folders(self) -> Array:
        """Return the number of each sample's folder, shape (samples,)."""
        return np.repeat(np.arange(len(self.paths)), self.counts)

    @property
    def metadata(self) -> dict[str, str]:
        """Return what people said of the dataset in the first folder, by key."""
        return self._descriptions[0].said

    @property
    def dropped(self) -> int | None:
        """Return how many old samples bounded datasets among the folders have dropped; None where there is none."""
        bounded = [one.modes.get(self.mode, {}).get(BOUNDED) for one in self._descriptions]
        numbers = [said["samples"] for said in bounded if said is not None]
        return sum(number for number in numbers if number != UNKNOWN) if numbers else None

    @cached_property
    def split(self) -> EpisodeSplit | None:
        """Return the division into parts that the folders record, None where they do not.

        Raises:
            ConfigError: They record different ones, or what is recorded is none.
        """
        described = zip(self.places, self._descriptions, strict=True)
        return recorded_split((place, one.metadata.get(METADATA)) for place, one in described)

    @property
    def provenances(self) -> list[Any]:
        """Return the provenance of each folder."""
        return [copy.deepcopy(description.provenance(self.mode)) for description in self._descriptions]

    @cached_property
    def constants(self) -> dict[str, Array]:
        """Return arrays that are stored once per dataset, by name.

        Raises:
            DatasetError: Their file is damaged, or the folders have different ones.
        """
        described = zip(self.paths, self._descriptions, strict=True)
        every = [constants.read(path, description.constants) for path, description in described]
        for other in every[1:]:
            if names := constants.differing(every[0], other):
                raise DatasetError(
                    f"{', '.join(map(str, self.paths))} have different constants {names}; open them one by one"
                )
        return every[0]

    def verify(self, *, progress: bool) -> None:
        """Compare the samples with the checksums of their partitions.

        Raises:
            DatasetError: A partition is not what was written.
        """
        sealed = [part for part in self.partitions if part.sealed]
        for number, path in enumerate(self.paths):
            _, description = self._open(number, {})  # what the description names, and nothing else
            constants.read(path, description.constants)
        with Progress(sum(part.row_bytes for part in sealed), "verify", "B", enabled=progress) as bar:
            for part in sealed:
                if part.digest(bar.update) != part.checksum:
                    raise DatasetError(
                        f"{part.path} has been changed or damaged: its checksum is wrong. Restore a copy"
                    )
