"""`Location`: a place in a storage, written ``scheme://...``; the table of the schemes that there are."""

from __future__ import annotations

import importlib
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from physgym.errors import ConfigError
from physgym.files import absolute


@dataclass(frozen=True)
class Scheme:
    """A kind of storage, whose modules are imported when they are needed.

    Attributes:
        beginning: Pattern of the beginning of an address. Pathlib makes one slash of two, and a path may come through
            it, from a command line for example.
        location: Module and name of its subclass of `Location`.
        backend: Module and name of its subclass of `physgym.storage.backend.Backend`.
    """

    beginning: str
    location: str
    backend: str


SCHEMES = {
    "s3": Scheme(r"s3:/{1,2}(?!/)", "physgym.storage.s3_location:S3Location", "physgym.storage.s3:S3Backend"),
    "file": Scheme(
        r"file:/{1,3}(?!/)", "physgym.storage.folder:FolderLocation", "physgym.storage.folder:FolderBackend"
    ),
}


class Location(ABC):
    """A place in a storage, below which objects have names."""

    scheme: ClassVar[str]

    @classmethod
    def parse(cls, text: str) -> Location:
        """Return the place that an address names.

        Raises:
            ConfigError: It names none, or holds credentials.
        """
        if (scheme := scheme_of(text)) is None:
            raise ConfigError(f"{text!r} is no address of a storage; they begin with {', '.join(SCHEMES)}, as in s3://")
        found: Location = imported(SCHEMES[scheme].location).parse(text)
        return found

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the last part of the address."""

    @abstractmethod
    def __truediv__(self, name: str) -> Location:
        """Return the place below."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the address."""


def scheme_of(text: str) -> str | None:
    """Return the scheme with which an address of a storage begins, None where a text is none."""
    return next((name for name, scheme in SCHEMES.items() if re.match(scheme.beginning, text)), None)


def imported(entry: str) -> Any:
    """Return what an entry of the table names."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def place(path: str | os.PathLike[str] | Location) -> Path | Location:
    """Return where a path leads: to a place in a storage if it begins as ``s3://`` does, else to the local disk.

    A local path is absolute from here on, with ``~`` expanded, also if the process changes its folder later.

    Raises:
        ConfigError: It begins like one in a storage but is none.
    """
    if isinstance(path, Location):
        return path
    text = os.fspath(path)
    return absolute(text) if scheme_of(text) is None else Location.parse(text)


def local(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path that must be on the local disk.

    Raises:
        ConfigError: It is in a storage.
    """
    found = place(path)
    if isinstance(found, Location):
        raise ConfigError(f"{what} must be a local folder, not {found}")
    return found
