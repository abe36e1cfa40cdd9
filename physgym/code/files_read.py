"""Files that a simulation reads, by their hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError
from physgym.registration import creator_of


def declared_files(env: Any) -> list[str]:
    """Return the files that the class of a simulation names, for use where no environment was made."""
    try:
        make, _ = creator_of(env)
    except Exception:  # noqa: BLE001 - making the environment will give the error
        return []
    files = getattr(make, "files_read", ())
    files = [files] if isinstance(files, (str, os.PathLike)) else files
    return [os.fspath(name) for name in files] if isinstance(files, (list, tuple)) else []


def read_files(folder: Path | None, names: Sequence[str]) -> dict[str, str]:
    """Return the hashes of the files that a simulation reads.

    Args:
        folder: Folder of its module; files below it are named relative to it.
        names: Files, folders of files, or executables.

    Returns:
        Hash of each file by its name.

    Raises:
        ConfigError: A file is missing.
    """
    found: dict[str, str] = {}
    for name in names:
        path = Path(name).expanduser()
        near = path if path.exists() or path.is_absolute() or folder is None else folder / path
        if not near.exists() and os.sep not in name and (executable := shutil.which(name)):
            near = Path(executable)
        if not near.exists():
            raise ConfigError(
                f"the simulation says that it reads {name!r} (files_read), but there is no such file below {Path.cwd()}"
            )
        for file in sorted(f for f in near.rglob("*") if f.is_file()) if near.is_dir() else [near]:
            found[_file_name(file, name if file == near else str(file), folder)] = _file_digest(file)
    return found


def _file_name(file: Path, name: str, folder: Path | None) -> str:
    for around in (folder, Path.cwd()):
        if around is not None and file.is_absolute() and file.is_relative_to(around):
            return str(file.relative_to(around))
    return name


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
