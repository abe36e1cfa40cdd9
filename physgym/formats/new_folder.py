"""`importing`: a dataset that an import makes, whose folder has its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from physgym import files
from physgym.data.description import Description, Mode
from physgym.data.folder_claim import FolderClaim
from physgym.data.surgery.unfinished import delete_unfinished, locked
from physgym.data.writer import SampleWriter, all_or_nothing, remove_mode
from physgym.errors import DatasetError
from physgym.files import short
from physgym.sample import SampleSpec
from physgym.storage.location import Location, place


@contextlib.contextmanager
def importing(path: str | os.PathLike[str] | Location, spec: SampleSpec, **options: Any) -> Iterator[SampleWriter]:
    """Give the writer of a new dataset, which takes its name at the end of the block; an error leaves nothing.

    A killed import would leave a dataset with some of the samples otherwise, which reads as a whole one. A part that is
    added to a dataset is written where it is to be: until it is whole nobody can open it, and where the import was
    killed the next one replaces it. Samples in a storage are written where they are to be.

    Args:
        path: The dataset's folder or place.
        spec: The fields.
        **options: Of `SampleWriter`.

    Raises:
        DatasetError: There are such samples already, or the disk refuses.
    """
    with (
        _new_folder(path) as folder,
        _addition(folder, options.get("mode", "training")) as begin,
        SampleWriter(folder, spec, nonfinite="allow", **options) as writer,
        all_or_nothing(writer),
    ):
        begin()
        yield writer


@contextlib.contextmanager
def _addition(folder: Path | Location, mode: Mode) -> Iterator[Callable[[], None]]:
    """Give what says that a part is unfinished until the block is over, where it is added to what is in a folder."""
    if isinstance(folder, Location) or not folder.is_dir() or not any(folder.iterdir()):
        yield lambda: None
        return
    found = Description.read(folder)
    if mode in found.modes and mode not in found.unfinished:
        raise DatasetError(
            f"{short(folder)} already holds {mode} samples, and an import adds none to them. Choose another folder "
            "(--out) or part (--mode); two datasets become one by physgym data merge"
        )
    if mode in found.unfinished:
        claim = FolderClaim(folder)  # which an import at work has
        try:
            remove_mode(folder, mode)
        finally:
            claim.release()
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        found = Description.read(folder)
        found.with_unfinished(found.unfinished | {mode}).write(folder)

    try:
        yield begin
    finally:
        found = Description.read(folder)
        if begun and mode in found.unfinished:
            found.with_unfinished(found.unfinished - {mode}).write(folder)


@contextlib.contextmanager
def _new_folder(path: str | os.PathLike[str] | Location) -> Iterator[Path | Location]:
    """Give a folder that takes its name at the end of the block."""
    at = place(path)
    if isinstance(at, Location) or at.is_symlink() or (at.exists() and (not at.is_dir() or any(at.iterdir()))):
        yield at
        return
    at, inside = files.absolute(at), False
    try:
        at.parent.mkdir(parents=True, exist_ok=True)
        delete_unfinished(at)
        with files.creating(at) as folder:
            folder.mkdir()
            with locked(folder):
                inside = True
                yield folder
                inside = False
                for file in sorted(folder.iterdir()):
                    files.flush(file)
    except OSError as error:
        if inside:  # of the block, such as of the source that it reads
            raise
        raise DatasetError(f"cannot write {at}: {error.strerror or error}. Nothing of it is left") from error
