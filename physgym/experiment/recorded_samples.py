"""The samples that a session has used, where it is run again: those of the project, as many as there were then."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym.data.dataset import SampleDataset
from physgym.data.first_samples import copy_first
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.provenance import dataset_hash, ends_as_recorded
from physgym.files import short, write_atomically
from physgym.storage.location import Location, place

SHOWN = 16  # letters of a hash


class RecordedSamples:
    """Finds the samples of a session again.

    A path that is relative begins in the project that the session is run again in; where nothing is there, in the
    folder of the session's own run, which is said. Of a dataset that has grown the first samples are copied.

    Args:
        session: The session.
        folders: Where relative paths begin: the folder of the project now, then that of the session's own run.
        copies: New folder for copies.

    Attributes:
        said: What was found, a line for each dataset.
    """

    def __init__(self, session: Path, folders: Sequence[Path], copies: Path) -> None:
        self._session, self._folders, self._copies = session, folders, copies
        self.said: list[str] = []

    def path(self, value: Any) -> str:
        """Return a path as an absolute one; what is in a storage stays as it is."""
        if isinstance(place(str(value)), Location):
            return str(value)
        local = Path(str(value)).expanduser()
        found = [folder / local for folder in self._folders]
        return str(next((one for one in found if one.exists()), found[0]))

    def paths(self, value: Any) -> str | list[str]:
        """Return the path of a dataset, or of several, as `path` does."""
        return [self.path(one) for one in value] if isinstance(value, list) else self.path(value)

    def find(self, key: str, value: Any, then: Mapping[str, Any], *, bounded: bool) -> str | list[str]:
        """Return the place of samples that are those of the session, bit for bit.

        Args:
            key: The key that names them.
            value: Its value: a path, or several.
            then: What the record says of them.
            bounded: Whether the session takes the first samples alone, however many there are.

        Raises:
            ConfigError: They are missing, or others.
        """
        path, mode, count = self.paths(value), then.get("mode", "training"), then["samples"]
        stored = then.get("stored") or count
        try:
            dataset = SampleDataset(path, mode, mini=max(1, count))
            same = dataset_hash(dataset) == then["hash"]
            there = _stored(dataset if bounded else SampleDataset(path, mode))
        except DatasetError as error:
            raise ConfigError(
                f"the samples of {self._session} cannot be read: {error}. The session used {count} {mode} samples with "
                f"the hash {then['hash']}, which are not part of it: {self.place_of(key, value)}. Copy the dataset "
                "there, from the person or machine that made the session"
            ) from error
        note = f"{key}: {count} {mode} samples in {_text(path)}, sha256 {then['hash'][:SHOWN]}..."
        if (other := self._other_folder(value, path)) is not None:
            note += f"; {other} has none, so that these are of the folder in which the session was run first"
        if there > stored and not (same and bounded):
            path = self._first(key, path, dataset, then, there, bounded=bounded)
            note += f". It has grown to {there} since: the first {stored} are copied to {short(str(path))}"
        elif not same:
            raise ConfigError(
                f"the samples in {_text(path)} are not those of {self._session}: their hash is {dataset_hash(dataset)},"
                f" it was {then['hash']} over {count} samples; {there} are there now. Bring the dataset back as it was"
            )
        self.said.append(note)
        return path

    def _first(
        self,
        key: str,
        path: str | list[str],
        dataset: SampleDataset,
        then: Mapping[str, Any],
        there: int,
        *,
        bounded: bool,
    ) -> str:
        """Return a copy of the first samples of a dataset that has grown."""
        stored = then.get("stored") or then["samples"]
        grown = f"the samples in {_text(path)} are not those of {self._session}, which used {then['samples']}"
        if len(dataset.places) > 1 or isinstance(dataset.places[0], Location):
            raise ConfigError(
                f"{grown}: {there} are there now. Of several folders, and of a dataset in a storage, physgym cannot "
                "tell the first ones: bring the dataset back as it was"
            )
        if not (ends := ends_as_recorded(dataset, stored, then["hash"])):
            more = " (or there were more of them then, which the record does not say)" if bounded else ""
            raise ConfigError(
                f"{grown}: it has {there} samples now, and the first {stored} are others as well{more}: their hash is "
                f"{dataset_hash(dataset, stored)}, it was {then['hash']}. Bring the dataset back as it was"
            )
        self._copies.mkdir(parents=True, exist_ok=True)
        write_atomically(self._copies / ".gitignore", "*\n")
        copy = self._copies / key
        copy_first(dataset.paths[0], dataset.mode, stored, copy, ends[0])
        return str(copy)

    def place_of(self, key: str, value: Any) -> str:
        """Say where a configuration expects a dataset: in a folder that relative paths begin at, or where it says."""
        paths = [str(one) for one in (value if isinstance(value, list) else [value])]
        said = f"{key} names {', '.join(paths)}"
        relative = any(self.path(path) != path and not path.startswith("~") for path in paths)
        return f"{said}, below {self._folders[0]}" if relative else said

    def _other_folder(self, value: Any, path: str | list[str]) -> str | None:
        """Return the place in the project where samples are missing that were found elsewhere; None for none."""
        given, found = (one if isinstance(one, list) else [one] for one in (value, path))
        for named, at in zip(given, found, strict=True):
            wanted = self._folders[0] / Path(str(named)).expanduser()
            if not isinstance(place(str(named)), Location) and str(wanted) != at:
                return str(wanted)
        return None

    def remove_copies(self) -> None:
        """Remove the copies, of a run that left nothing that names them."""
        shutil.rmtree(self._copies, ignore_errors=True)


def _stored(dataset: SampleDataset) -> int:
    """Return how many samples are stored where a dataset is, of which it may be the first ones."""
    return sum(part.count for part in dataset.partitions)


def _text(path: str | list[str]) -> str:
    return path if isinstance(path, str) else ", ".join(path)
