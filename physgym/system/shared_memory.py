"""Memory that processes share, without a name: it never stays behind, whichever process dies."""

from __future__ import annotations

import os
import platform
import sys
import tempfile

from physgym.errors import ConfigError
from physgym.system.descriptors import above_standard

# A store that follows another is seen after it, also by another process, and by who reads what a killed one has left
ORDERED = {"x86_64", "amd64"}


def is_shareable() -> bool:
    """Return whether processes may hand on pieces of memory by a store: it has no room before it is asked for."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and platform.machine().lower() in ORDERED


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
