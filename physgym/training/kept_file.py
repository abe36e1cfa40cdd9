"""`KeptFile`: a file of records that stay in memory while the disk refuses them."""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from physgym.errors import ConfigError
from physgym.files import replacing

FLUSH_EVERY = 10.0  # seconds after which readers see what was written, at the latest with the next record
BUFFER = 1 << 16  # bytes that are written together: the records of several hundred batches

KEPT = 64 << 20  # bytes that are kept at most while they cannot be written


def cannot_write(what: str, path: Path, error: OSError) -> ConfigError:
    """Return the error to raise for one of the file system.

    Args:
        what: What is written, such as "the curves for TensorBoard".
        path: Where to.
        error: The error.
    """
    return ConfigError(
        f"{what} cannot be written to {path}: {error.strerror or error}. Make room there, or choose another folder; a "
        "training with checkpoints can be resumed"
    )


class KeptFile:
    """File to which records are added.

    A write that fails (a full disk, a quota, a folder that was deleted) ends nothing: there is a warning, the records
    are kept in memory, and written as soon as that works again.

    Args:
        path: Where; must not be there yet, unless there are records. Folders are made.
        what: What is written, for the warnings.
        head: What the file begins with.
        records: How many records follow the head in a file that is there; None for a new one.

    Attributes:
        path: Where it is.
        what: What is written.
        head: What the file begins with.

    Raises:
        ConfigError: It cannot be made, or opened.
    """

    def __init__(self, path: Path, what: str, head: bytes, records: int | None = None) -> None:
        self.path, self.what, self.head = path, what, head
        self._kept: list[bytes] = []  # records that are still to be written
        self._bytes, self._written = 0, records or 0  # of those, and number of the records in the file
        self._flushed, self._failing, self._full = time.monotonic(), False, False
        self._change: Callable[[bytes], bytes] | None = None  # of the records, to fit a new head
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("xb" if records is None else "r+b", buffering=0)
        except OSError as error:
            raise cannot_write(what, path, error) from error
        self._size = 0 if records is None else self._file.seek(0, os.SEEK_END)  # bytes of the head and whole records
        self._head_size = 0 if records is None else len(head)  # bytes of the head in the file
        self.flush()

    @property
    def records(self) -> int:
        """Return the number of records, those in memory too."""
        return self._written + len(self._kept)

    def write(self, record: bytes) -> None:
        """Add a record, to memory at least."""
        size = self._bytes
        if size > KEPT:
            if not self._full:
                self._full = True
                text = (
                    f"{self.path} cannot be written for so long that {KEPT >> 20} MB of curves are kept; those that "
                    "follow are left out"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=2)
        else:
            self._kept.append(record)
            self._bytes += len(record)
        now = time.monotonic()
        if now - self._flushed >= FLUSH_EVERY or (size > BUFFER and not self._failing):
            self._flushed = now
            self.flush()

    def begin_with(self, head: bytes, change: Callable[[bytes], bytes]) -> None:
        """Give the file another head, with the next `flush`.

        Args:
            head: The head.
            change: Makes records of before fit to it, each of them a line; one that fits already stays as it is.
        """
        self.head, self._change = head, change

    def flush(self) -> None:
        """Let readers see what was written; what cannot be written stays in memory."""
        if self._size and not self._kept and self._change is None:
            return
        try:
            self._reopen()
            if self._change is not None:
                self._rewrite(self._change)
            else:
                self._append()
        except OSError as error:
            with suppress(OSError):  # half a record would hide those after it from readers
                self._file.truncate(self._size)
            if not self._failing:
                self._failing = True
                text = (
                    f"{self.what} cannot be written to {self.path} now: {error.strerror or error}. They are kept in "
                    "memory and written when that works again; the training continues"
                )
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            return
        self._written += len(self._kept)
        self._kept, self._bytes = [], 0
        self._failing = self._full = False

    def _append(self) -> None:
        """Write the records behind the others; the head before the first."""
        head = b"" if self._size else self.head
        data, written = memoryview(b"".join([head, *self._kept])), 0
        self._file.seek(self._size)
        while written < len(data):
            written += self._file.write(data[written:])
        self._size += len(data)
        self._head_size = self._head_size or len(head)

    def _rewrite(self, change: Callable[[bytes], bytes]) -> None:
        """Replace the file in one instant by one with the new head and all records."""
        with replacing(self.path, durable=False) as temporary, self.path.open("rb") as old, temporary.open("wb") as new:
            new.write(self.head)
            old.seek(self._head_size)
            for record in itertools.chain(old, self._kept):
                new.write(change(record))
        self._file.close()
        self._file = self.path.open("r+b", buffering=0)
        self._size, self._head_size, self._change = self._file.seek(0, os.SEEK_END), len(self.head), None

    def _reopen(self) -> None:
        """Make the file again where somebody has deleted it, or the folder: nobody would find what is written to it."""
        if self.path.exists():
            return
        warnings.warn(f"{self.path} was deleted; its curves continue in a new file", RuntimeWarning, stacklevel=3)
        self._file.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb", buffering=0)
        self._size = self._head_size = self._written = 0

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        if self._file.closed:
            return
        self.flush()
        if self._kept:
            warnings.warn(
                f"the last curves could not be written to {self.path}, and are given up", RuntimeWarning, stacklevel=2
            )
            self._kept, self._bytes = [], 0
        with suppress(OSError):
            self._file.close()
