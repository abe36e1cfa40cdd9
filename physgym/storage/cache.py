"""`Cache`: files from S3 on the local disk, by their checksums, up to a size.

``objects/`` holds the files by SHA-256; each folder below ``views/`` is a dataset or checkpoint made of links to them;
``writing/`` holds datasets that are being written or were. A folder is pinned by its users, in any process, by a
shared lock on a file next to it; a killed process loses its locks at once. All that is not pinned may be deleted for
want of room, the folder used longest ago first; of ``writing/`` only what is in S3 as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError, StorageError
from physgym.files import (
    CACHE_VARIABLE,
    absolute,
    add_name,
    cache_folder,
    link_over,
    lock,
    locked,
    rename_over,
    try_lock,
)

FOLDER_VARIABLE, SIZE_VARIABLE = CACHE_VARIABLE, "PHYSGYM_CACHE_SIZE"
SIZE = 50_000_000_000  # bytes
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LOCK_TIMEOUT = 60.0  # seconds for the lock of the whole cache, which is held for file operations only
STALLED = 300.0  # seconds without progress after which another process's download is not waited for
DOWNLOADS = 4  # at once
POLL = 0.05  # seconds between looks at a lock

TOO_LARGE = (
    "{what} takes {needed} bytes, and the cache in {root} holds {limit} bytes, {pinned} of them in use. Set "
    + SIZE_VARIABLE
    + " to more, such as 200G, or "
    + FOLDER_VARIABLE
    + " to a folder on a larger disk"
)


@dataclass(frozen=True)
class Entry:
    """A file that is wanted in a folder.

    Attributes:
        name: In the folder.
        sha256: Of its bytes, hexadecimal.
        size: Bytes.
        source: Name of the object in S3.
    """

    name: str
    sha256: str
    size: int
    source: str


class Pin:
    """Keeps a folder of the cache from being deleted, as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        handle = os.open(_pin_file(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        lock(handle, folder, shared=True, warn=False)  # an exclusive holder has the cache's lock as well
        self._finalizer = weakref.finalize(self, os.close, handle)

    def release(self) -> None:
        """Let go of the folder; calling it again does no harm."""
        self._finalizer()


_kept: deque[Pin] = deque(maxlen=8)


def keep(pin: Pin) -> Path:
    """Return the folder of a pin whose user does not say when it is done: of those the last eight stay."""
    _kept.append(pin)
    return pin.folder


class Cache:
    """The cache of this user.

    Args:
        root: Its folder; by default that of the environment variable PHYSGYM_CACHE, else ``~/.cache/physgym``.
        limit: Its size in bytes; by default that of PHYSGYM_CACHE_SIZE, else 50 GB.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, root: Path | None = None, limit: int | None = None) -> None:
        self.root = cache_folder() if root is None else absolute(root)
        self.limit = _size(os.environ.get(SIZE_VARIABLE, "")) if limit is None else limit
        self.objects, self.views, self.writing = (self.root / name for name in ("objects", "views", "writing"))
        try:
            for folder in (self.objects, self.views, self.writing):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the cache {self.root}: {error.strerror}. Set {FOLDER_VARIABLE} to another folder"
            ) from error

    # --- folders

    def pin(self, folder: Path) -> Pin:
        """Pin a folder, which is made if it is not there."""
        with self._disk(), self._locked():
            folder.mkdir(exist_ok=True)
            pin = Pin(folder)
            os.utime(folder)
        return pin

    def fill(
        self,
        folder: Path,
        entries: Sequence[Entry],
        download: Callable[[Entry, Path], None],
        what: str,
        cancel: Callable[[], None],
    ) -> None:
        """Complete a pinned folder.

        Args:
            folder: The folder.
            entries: What shall be in it.
            download: Puts the bytes of an entry into a file, or raises.
            what: Whose these are, for errors.
            cancel: Ends downloads soon; called where one fails, or is interrupted.

        Raises:
            StorageError: There is no room, the disk refuses, or `download` raises.
        """
        missing = [entry for entry in entries if not _is(folder / entry.name, entry.size)]
        if not missing:
            return
        with self._disk(), self._locked():
            absent = [entry for entry in missing if not self._linked(folder, entry)]
            self._reserve(absent, what)
        if not absent:
            return
        cancelled = threading.Event()
        with ThreadPoolExecutor(min(DOWNLOADS, len(absent))) as pool:
            brought = [pool.submit(self._bring, folder, entry, download, cancelled) for entry in absent]
            try:
                for one in as_completed(brought):
                    one.result()
            except BaseException:
                cancelled.set()
                cancel()
                for one in brought:
                    one.cancel()
                raise

    def adopt(self, file: Path, sha256: str) -> None:
        """Make a file of a pinned folder one of the cache's, if there is room; the file becomes a link."""
        object_ = self.objects / sha256
        if file.is_symlink():
            return
        with self._disk(), self._locked():
            size = file.stat().st_size
            if not object_.exists():
                try:
                    self._make_room(size, str(file))
                    add_name(file, object_)
                except (StorageError, OSError):  # too large, or no such links there: it stays what it is
                    return
            self._linked(file.parent, Entry(file.name, sha256, size, ""))

    def _linked(self, folder: Path, entry: Entry) -> bool:
        """Return whether there is such an object, which is then linked to; with the lock held."""
        found = self.objects / entry.sha256
        if not _is(found, entry.size):
            return False
        os.utime(found)
        link_over(folder / entry.name, os.path.relpath(found, folder))
        return True

    def _bring(
        self, folder: Path, entry: Entry, download: Callable[[Entry, Path], None], cancelled: threading.Event
    ) -> None:
        """Download an object and link to it; of several processes that want it one does."""
        final, part = self.objects / entry.sha256, self.objects / f"{entry.sha256}.part"
        begin, seen = time.monotonic(), -1.0
        with self._disk():
            while not cancelled.is_set():
                with self._locked():
                    if self._linked(folder, entry):
                        return
                with try_lock(part) as mine:
                    if mine and _is(final, entry.size):  # just now
                        part.unlink()
                    elif mine:
                        os.truncate(part, entry.size)  # what is reserved, as far as other processes look
                        download(entry, part)
                        with self._locked():
                            rename_over(part, final)
                            self._linked(folder, entry)
                        return
                with contextlib.suppress(FileNotFoundError):
                    if (changed := part.stat().st_mtime) != seen:
                        begin, seen = time.monotonic(), changed
                if time.monotonic() - begin > STALLED:
                    raise StorageError(f"another process holds {part} and makes no progress; end it, then try again")
                cancelled.wait(POLL)

    # --- room

    def _reserve(self, entries: Sequence[Entry], what: str) -> None:
        """Reserve room for what is to be downloaded, by files of that size."""
        wanted = {entry.sha256: entry.size for entry in entries}
        parts = {sha256: self.objects / f"{sha256}.part" for sha256 in wanted}
        new = {sha256: size for sha256, size in wanted.items() if not parts[sha256].exists()}
        self._make_room(sum(new.values()), what, keep=set(parts.values()))
        for sha256, size in new.items():
            with parts[sha256].open("wb") as file:
                file.truncate(size)

    def _make_room(self, needed: int, what: str, keep: set[Path] | None = None) -> None:
        """Delete what is not in use until there is room; with the lock held.

        Raises:
            StorageError: There is not enough.
        """
        sizes = {file: file.stat().st_size for file in self.objects.iterdir()}
        folders = sorted(
            (folder for kind in (self.views, self.writing) for folder in kind.iterdir() if folder.is_dir()),
            key=lambda folder: folder.stat().st_mtime,
        )
        links = {folder: self._links(folder) for folder in folders}
        copies = {folder: _copies(folder) for folder in folders if folder.parent == self.views or is_published(folder)}
        used = sum(sizes.values()) + sum(copies.values())
        for folder in (None, *folders):
            if used + needed <= self.limit:
                return
            if folder is not None:
                if not self._drop(folder):
                    continue
                del links[folder]
                used -= copies.pop(folder)
            linked = set().union(*links.values())
            for file in sorted(set(sizes) - linked - (keep or set()), key=lambda file: file.stat().st_mtime):
                if used + needed <= self.limit:
                    return
                with try_lock(file) as free:  # of another process's download it is not
                    if free:
                        file.unlink()
                        used -= sizes.pop(file)
        if used + needed > self.limit:
            raise StorageError(
                TOO_LARGE.format(what=what, needed=needed, root=self.root, limit=self.limit, pinned=used)
            )

    def _links(self, folder: Path) -> set[Path]:
        return {self.objects / file.readlink().name for file in folder.iterdir() if file.is_symlink()}

    def _drop(self, folder: Path) -> bool:
        """Delete a folder unless it is in use, or holds what is nowhere else."""
        if folder.parent == self.writing and not is_published(folder):
            return False
        with try_lock(_pin_file(folder)) as free:
            if free:
                shutil.rmtree(folder)
                state_file(folder).unlink(missing_ok=True)
                _pin_file(folder).unlink(missing_ok=True)
        return free

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.root / ".lock", LOCK_TIMEOUT, lambda: time.sleep(POLL), StorageError):
            yield

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Translate what the disk says."""
        try:
            yield
        except OSError as error:
            hint = f"Free space, or set {FOLDER_VARIABLE} to another folder" if error.errno == errno.ENOSPC else ""
            raise StorageError(f"cannot write to the cache {self.root}: {error.strerror or error}. {hint}") from error


def state_file(folder: Path) -> Path:
    """Return what is known of a dataset that is being written: next to its folder."""
    return folder.with_name(f"{folder.name}.json")


def read_state(folder: Path) -> dict[str, Any]:
    """Return what is known of a dataset that was being written; empty if nothing is."""
    try:
        state = json.loads(state_file(folder).read_text())
    except (OSError, ValueError):
        return {}
    return dict(state) if isinstance(state, dict) else {}


def is_published(folder: Path) -> bool:
    """Return whether S3 has all of a dataset that was being written."""
    return bool(read_state(folder).get("published"))


def _is(file: Path, size: int) -> bool:
    """Return whether there is a file of that size; one that was cut short is to be fetched again."""
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False


def _copies(folder: Path) -> int:
    """Return bytes of files of a folder that are no links."""
    return sum(file.stat().st_size for file in folder.iterdir() if not file.is_symlink() and file.is_file())


def _pin_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.pin")


def _size(text: str) -> int:
    """Return bytes, written such as 50G."""
    if not text:
        return SIZE
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{SIZE_VARIABLE} must be a size such as 500M or 200G, not {text!r}")
    return int(float(found[1]) * UNITS[found[2].upper()])
