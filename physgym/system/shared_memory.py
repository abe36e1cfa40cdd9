"""Memory that processes share, without a name: it stays behind nowhere, whatever dies."""

from __future__ import annotations

import os
import tempfile

from physgym.errors import ConfigError
from physgym.system.descriptors import above_standard


def make_file() -> int:
    """Return the descriptor of an empty piece of memory that has no name and ends with the processes that hold it."""
    if hasattr(os, "memfd_create"):
        return above_standard(os.memfd_create("physgym", os.MFD_CLOEXEC))
    with tempfile.TemporaryFile() as file:
        return above_standard(os.dup(file.fileno()))


def reserve(file: int, size: int, rows: int) -> None:
    """Give shared memory its size, with all its pages, so that no later access can fail for want of memory.

    Raises:
        ConfigError: There is not so much.
    """
    try:
        os.ftruncate(file, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise ConfigError(
            f"cannot reserve {size} bytes of shared memory for the observations of {rows} environments: "
            f"{error.strerror}. Free memory, use fewer environments, or pass shared_memory=False"
        ) from error
