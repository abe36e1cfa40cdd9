"""Room on the disk for samples that are going to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from physgym.errors import DatasetError


def check_room(path: Path, samples: int, row_nbytes: int) -> None:
    """Raise an error where samples do not fit on the disk, before the first one is made.

    Args:
        path: Folder of the dataset, which need not exist.
        samples: How many are going to be written.
        row_nbytes: Bytes of each.

    Raises:
        DatasetError: They need more than is free.
    """
    there = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    try:
        free = shutil.disk_usage(there or ".").free
    except OSError:
        return  # a file system that does not say
    needed = samples * row_nbytes
    if needed > free:
        raise DatasetError(
            f"{samples} samples need {size(needed)}, {size(free)} are free at {path}. Free space, choose another "
            "folder, or ask for fewer; what is there can be continued later (resume)"
        )


def size(nbytes: int) -> str:
    """Return a number of bytes in words, with two digits at least."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= factor:
            number = nbytes / factor
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{nbytes} bytes"
