"""`FolderBackend`: a storage in a folder, such as one that several machines mount, written ``file:///path``."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from physgym.errors import ConfigError, StorageError
from physgym.files import locked, replacing, write_atomically
from physgym.storage.backend import Backend, ChangedObject, DamagedObject, MissingObject, Stopped
from physgym.storage.cache import Entry
from physgym.storage.location import Location

ADDRESS = re.compile(r"file:/{1,3}(?!/)")
LOCK = ".storage-lock"  # of conditional writes
LOCK_TIMEOUT, POLL = 60.0, 0.02  # seconds
COPY_SIZE = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True)
class FolderLocation(Location):
    """A folder that is a storage.

    Attributes:
        path: The folder, absolute; made when something is written.
    """

    scheme: ClassVar[str] = "file"

    path: Path

    @classmethod
    def parse(cls, text: str) -> FolderLocation:
        """Return the place of ``file:///path``.

        Raises:
            ConfigError: The path has '..' in it.
        """
        path = Path("/" + ADDRESS.sub("", text, count=1))
        if ".." in path.parts:
            raise ConfigError(f"{text!r} does not fit: a folder is written file:///path, without '..'")
        return cls(path)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.name

    def __truediv__(self, name: str) -> FolderLocation:
        """Return the place below."""
        return FolderLocation(self.path / name)

    def __str__(self) -> str:
        return f"file://{self.path}"


class FolderBackend(Backend):
    """Objects that are files of a folder.

    Args:
        location: The folder.
    """

    def __init__(self, location: FolderLocation) -> None:
        super().__init__(location)
        self._folder = location.path

    @property
    def identity(self) -> str:
        """Return a name of the place."""
        return str(self.location)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Read a small object and its tag; None if there is none."""
        with self._disk(f"read {name}"):
            try:
                data = (self._folder / name).read_bytes()
            except FileNotFoundError:
                return None
            return data, _tag(data)

    def replace(self, name: str, data: bytes, tag: str | None) -> str:
        """Write a small object in place of the one with a tag, None for none at all; return the new tag.

        Raises:
            ChangedObject: Somebody else has written it meanwhile.
        """
        file = self._folder / name
        with self._disk(f"write {name}"), self._locked():
            found = self.read(name)
            if (None if found is None else found[1]) != tag:
                raise ChangedObject(f"{self.location / name} was written by somebody else meanwhile")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, data)
        return _tag(data)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""
        with self._disk(f"look for {name}"):
            try:
                return (self._folder / name).stat().st_size
            except FileNotFoundError:
                return None

    def upload(self, file: Path, name: str, begun: Callable[[str], None] = lambda upload: None) -> None:
        """Copy a file; nobody sees a part of it."""
        target = self._folder / name
        with self._disk(f"upload {name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary, temporary.open("wb") as to:
                for chunk in self._chunks(file):
                    to.write(chunk)

    def download(self, entry: Entry, file: Path) -> None:
        """Copy an object to a file, whose bytes are looked at.

        Raises:
            MissingObject: There is none.
            DamagedObject: It does not hold what it should.
        """
        where, digest = self.location / entry.source, hashlib.sha256()
        if (size := self.size(entry.source)) is None:
            raise MissingObject(f"cannot download {entry.source} at {self.location}: it is not there")
        if size != entry.size:
            raise DamagedObject(f"{where} is damaged: it has {size} bytes instead of {entry.size}")
        with self._disk(f"download {entry.source}"), file.open("r+b") as to:
            for chunk in self._chunks(self._folder / entry.source):
                to.write(chunk)
                digest.update(chunk)
            to.truncate()
        if digest.hexdigest() != entry.sha256:
            raise DamagedObject(f"{where} is damaged: its checksum is wrong. Restore it, or generate the dataset again")

    def delete(self, names: list[str]) -> None:
        """Delete objects; those that are not there do no harm."""
        for name in names:
            with self._disk(f"delete {name}"), contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()

    def folders(self) -> list[str]:
        """List the names of the folders below that hold objects."""
        with self._disk("list"):
            if not self._folder.is_dir():
                return []
            return sorted(below.name for below in self._folder.iterdir() if below.is_dir() and _holds_objects(below))

    def _chunks(self, file: Path) -> Iterator[bytes]:
        with file.open("rb") as stream:
            while chunk := stream.read(COPY_SIZE):
                if self.stop.is_set():
                    raise Stopped
                yield chunk

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other conditional writes out, for as long as one small file takes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / LOCK, LOCK_TIMEOUT, self._pause, StorageError):
            yield

    def _pause(self) -> None:
        if self.stop.wait(POLL):
            raise Stopped

    @contextlib.contextmanager
    def _disk(self, action: str) -> Iterator[None]:
        """Translate what the disk says."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot {action} at {self.location}: {error.strerror or error}") from error


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _holds_objects(folder: Path) -> bool:
    return any(file.is_file() and not file.name.startswith(".") for file in folder.rglob("*"))
