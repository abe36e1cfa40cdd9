"""Files under construction that a killed writer leaves in a dataset folder."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from physgym import files
from physgym.data.texts import SIGNATURE

# names like those of files under construction; only those that `files.temporary_name` made are deleted
LEFTOVER = re.compile(r"\.(dataset\.json|constants\.npz|[a-z]+-\d{5}\.h5)-[0-9a-f]{16}\.tmp")
BEGINNINGS = {".h5": SIGNATURE, ".json": b"{", ".npz": b"PK"}  # of files by suffix


def delete_leftovers(folder: Path) -> None:
    """Delete the files that a killed writer left; name and keep those that may be somebody else's."""
    kept = []
    for file in sorted(folder.iterdir()):
        if (found := LEFTOVER.fullmatch(file.name)) is None:
            continue
        if files.is_temporary(file.name) and _begins(file, BEGINNINGS[Path(found[1]).suffix]):
            file.unlink()
        else:
            kept.append(file.name)
    if kept:
        warnings.warn(
            f"{folder} has {', '.join(kept)}, named like files that a killed writer leaves, but not known to be such; "
            "they are kept. Delete them, or give them other names",
            RuntimeWarning,
            stacklevel=4,
        )


def _begins(file: Path, beginning: bytes) -> bool:
    """Return whether a regular file begins like this, or ends within it."""
    try:
        handle = files.open_regular(file)
    except OSError:
        return False
    try:
        return beginning.startswith(os.read(handle, len(beginning)))
    finally:
        os.close(handle)
