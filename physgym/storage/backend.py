"""`Backend`: the interface of a storage for whole files; `physgym.testing.storages` has the suite that each passes."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from physgym.errors import ConfigError, StorageError
from physgym.storage.cache import Cache, Entry
from physgym.storage.location import SCHEMES, Location, imported


class MissingObject(StorageError):
    """An object is not there."""


class ChangedObject(StorageError):
    """An object was to be replaced that somebody else has replaced meanwhile."""


class DamagedObject(StorageError):
    """An object does not hold what its description says."""


class Unreachable(StorageError):
    """The storage was away for too long."""


class Stopped(Exception):
    """The back-end was asked to stop."""


class Backend(ABC):
    """Objects below a place in a storage; whole files, each replaced at once and never seen in part.

    Args:
        location: The place.

    Attributes:
        location: The place.
        stop: Once it is set, all that waits or transfers raises `Stopped` soon.
        stops_within: Seconds within which it stops.
    """

    stops_within = 1.0

    def __init__(self, location: Location) -> None:
        self.location = location
        self.stop = threading.Event()

    @property
    @abstractmethod
    def identity(self) -> str:
        """Return a name of the place that differs between servers."""

    @abstractmethod
    def read(self, name: str) -> tuple[bytes, str] | None:
        """Read a small object and its tag, which changes with its content; None if there is none."""

    @abstractmethod
    def replace(self, name: str, data: bytes, tag: str | None) -> str:
        """Write a small object in place of the one with a tag, None for none at all.

        Returns:
            The new tag.

        Raises:
            ChangedObject: Somebody else has written it meanwhile.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""

    @abstractmethod
    def upload(self, file: Path, name: str, begun: Callable[[str], None] = lambda upload: None) -> None:
        """Upload a file, large ones in parts.

        Args:
            file: The file; it does not change meanwhile.
            name: Of the object.
            begun: Called with the number of an upload in parts, which `abort` needs if this process dies meanwhile.
        """

    def abort(self, name: str, upload: str) -> bool:
        """Give up an upload in parts, so that its parts cost nothing; return whether it is gone."""
        return True

    @abstractmethod
    def download(self, entry: Entry, file: Path) -> None:
        """Download an object.

        Args:
            entry: Which one, with its size and checksum.
            file: Exists, and is overwritten.

        Raises:
            MissingObject: There is none.
            DamagedObject: It does not hold what it should.
        """

    @abstractmethod
    def delete(self, names: list[str]) -> None:
        """Delete objects; those that are not there do no harm."""

    @abstractmethod
    def folders(self) -> list[str]:
        """List the names of the places below that hold objects, up to the next slash."""

    def fill(self, cache: Cache, folder: Path, entries: Sequence[Entry]) -> None:
        """Complete a pinned folder of the cache.

        Raises:
            MissingObject: There is no such object.
            StorageError: It is damaged, the storage refuses or is away, or there is no room.
        """
        cache.fill(folder, entries, self.download, str(self.location), self.stop.set)


def open_storage(location: Location) -> Backend:
    """Return the back-end of a place, by the table of schemes.

    Raises:
        ConfigError: A package is missing, or its configuration is wrong.
    """
    found: Backend = imported(SCHEMES[location.scheme].backend)(location)
    return found


def seconds(variable: str, default: float) -> float:
    """Return the seconds of an environment variable.

    Raises:
        ConfigError: It says something else.
    """
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ConfigError(f"{variable} must be a number of seconds, not {text!r}")
    return value
