"""Folders that are not finished: locked while somebody writes them, and deleted where their writer was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from physgym import files
from physgym.system.descriptors import above_standard


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an unfinished folder, which says that it is not left over."""
    handle = above_standard(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        files.lock(handle, folder, warn=False)
        yield
    finally:
        os.close(handle)


def delete_unfinished(out: Path) -> None:
    """Delete unfinished folders that a killed surgery to the same place has left."""
    for folder in out.parent.iterdir():
        made = files.TEMPORARY.fullmatch(folder.name)
        if made is None or made[1] != out.name or not files.is_temporary(folder.name):
            continue
        if not stat.S_ISDIR(folder.lstat().st_mode):
            continue
        handle = above_standard(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            if files.lock(handle, folder, warn=False) == "held":
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
