"""A temporary folder of an environment, which nobody leaves behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Collection
from pathlib import Path

from physgym.files import try_lock

LOCK = "in-use"  # a file that the process which uses the folder keeps locked
YOUNG = 10.0  # seconds within which a new folder may have no lock yet


class HeldFolder:
    """A temporary folder that is removed when it is closed, or when this process ends, but for what is kept in it.

    What processes that were killed have left is removed by the next one that makes such a folder in the same place,
    unless something in it is kept.

    Args:
        prefix: Beginning of its name, the same for all of a kind.
        where: In which folder it is made; None for that of temporary files.

    Attributes:
        path: The folder.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, prefix: str, where: str | os.PathLike[str] | None = None) -> None:
        remove_abandoned(prefix, where)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
        self._kept, held = set[Path](), contextlib.ExitStack()
        self._removed = weakref.finalize(
            self, _remove, self.path, self._kept, held, os.getpid()
        )  # at exit at the latest
        held.enter_context(try_lock(self.path / LOCK))

    def keep(self, part: Path) -> None:
        """Have a folder in it stay."""
        self._kept.add(part)
        (self.path / LOCK).unlink(missing_ok=True)  # or it would count as abandoned

    def close(self) -> None:
        """Remove the folder; calling it again does no harm."""
        self._removed()


def _remove(path: Path, kept: Collection[Path], held: contextlib.ExitStack, process: int) -> None:
    with held, contextlib.suppress(OSError):
        if os.getpid() != process:  # a child that was forked since
            return
        if not kept:
            shutil.rmtree(path, ignore_errors=True)
            return
        for part in path.iterdir():
            if part not in kept:
                shutil.rmtree(part, ignore_errors=True)


def remove_abandoned(prefix: str, where: str | os.PathLike[str] | None = None) -> None:
    """Remove the folders of processes that have ended without doing it."""
    for folder in Path(where or tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # of another user, or somebody else removes it
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG:
                continue
            if (folder / LOCK).is_file():
                with try_lock(folder / LOCK) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)
