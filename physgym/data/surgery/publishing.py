"""A finished dataset brought to a storage: its files first, then the description that names them."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from physgym import files
from physgym.data import constants
from physgym.data.description import DESCRIPTION, Description, as_text
from physgym.data.remote import read_description
from physgym.data.surgery.unfinished import delete_unfinished, locked
from physgym.errors import DatasetError, StorageError
from physgym.storage.backend import Backend, ChangedObject, open_storage
from physgym.storage.location import Location


def check_free(location: Location) -> None:
    """Raise DatasetError if there is a dataset at a place of a storage."""
    if read_description(open_storage(location)) is not None:
        raise DatasetError(f"{location} holds a dataset already; choose another place for the result")


@contextlib.contextmanager
def published(location: Location) -> Iterator[Path]:
    """Give a local folder for a dataset, which is brought to a place of a storage at the end of the block.

    Raises:
        DatasetError: There is a dataset already, or the disk refuses.
        StorageError: The storage refuses or is away. Nothing of it is left there.
    """
    check_free(location)
    store = open_storage(location)
    written = files.cache_folder() / "surgery" / hashlib.sha256(store.identity.encode()).hexdigest()[:32]
    folder = files.temporary_name(written)
    try:
        written.parent.mkdir(parents=True, exist_ok=True)
        delete_unfinished(written)
        folder.mkdir()
    except OSError as error:
        raise DatasetError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        with locked(folder):
            yield folder
            _upload(store, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _upload(store: Backend, folder: Path) -> None:
    """Upload the files of a dataset, then its description; where that breaks off, none of them stays."""
    described, token = Description.read(folder), secrets.token_hex(4)
    uploaded: list[str] = []
    parts: list[tuple[str, str]] = []

    def entry(entry: dict[str, Any], file: Path) -> dict[str, Any]:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        name = f"{file.stem}-{token}-{digest[:16]}{file.suffix}"
        uploaded.append(name)
        store.upload(file, name, lambda upload: parts.append((name, upload)))
        return {**entry, "object": name, "size": file.stat().st_size, "digest": digest}

    try:
        modes = {
            mode: {**one, "partitions": [entry(part, folder / part["file"]) for part in one["partitions"]]}
            for mode, one in described.modes.items()
        }
        kept = described.constants
        if isinstance(kept, dict):
            kept = entry(kept, folder / constants.CONSTANTS)
        content = Description(modes, kept, metadata=described.metadata).content
        store.replace(DESCRIPTION, as_text(content).encode(), None)
    except BaseException as error:
        with contextlib.suppress(StorageError):
            for name, upload in parts:
                store.abort(name, upload)
            store.delete(uploaded)
        if isinstance(error, ChangedObject):
            raise DatasetError(f"somebody else has written to {store.location} meanwhile; nothing is left") from error
        raise
