"""The folder into which an FMU is unpacked, once for each environment, and which nobody leaves behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from physgym.errors import ConfigError, needs
from physgym.files import try_lock

PREFIX = "physgym-fmu-"
LOCK = "in-use"  # a file that the process which uses the folder keeps locked
YOUNG = 10.0  # seconds within which a new folder may have no lock yet


class FmuFolder:
    """An unpacked FMU in a temporary folder, which is removed when it is closed, or when this process ends.

    What processes that were killed have left is removed by the next one that unpacks an FMU on this machine.

    Args:
        fmu: The file of the FMU.

    Attributes:
        path: The folder.

    Raises:
        ConfigError: It cannot be unpacked.
    """

    def __init__(self, fmu: Path) -> None:
        with needs("fmpy", "fmu", "an FMU"):
            from fmpy import extract

        remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._held = contextlib.ExitStack()
        self._held.enter_context(try_lock(self.path / LOCK))
        self._removed = weakref.finalize(self, _remove, self.path, os.getpid())
        try:
            extract(fmu, self.path)
        except Exception as error:
            self.close()
            raise ConfigError(
                f"{fmu} cannot be unpacked: {error}. Temporary folders are made in {tempfile.gettempdir()}; the "
                "environment variable TMPDIR names another place"
            ) from error

    def close(self) -> None:
        """Remove the folder; calling it again does no harm."""
        self._removed()
        self._held.close()


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # not a child that was forked since
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of processes that have ended without doing it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, or somebody else removes it
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG:
                continue
            if (folder / LOCK).is_file():
                with try_lock(folder / LOCK) as free:
                    if free:
                        shutil.rmtree(folder, ignore_errors=True)
