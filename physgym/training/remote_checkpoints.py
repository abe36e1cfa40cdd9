"""Checkpoints in S3.

Below the place of a checkpoint lie its ``manifest.json`` and its other files, each in an object whose name holds the
file's checksum as the manifest has it. The manifest is written last and deleted first, so that a checkpoint is there as
a whole or not at all, also while another one takes its place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.errors import StorageError
from physgym.files import write_atomically
from physgym.storage.backend import MissingObject, open_storage
from physgym.storage.cache import Cache, Entry, keep
from physgym.storage.location import Location

FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def upload_checkpoint(folder: Path, location: Location, manifest: str) -> None:
    """Upload a checkpoint; one that stands there is replaced at once.

    Args:
        folder: The complete checkpoint on the disk.
        location: Where to.
        manifest: Name of the manifest.

    Raises:
        StorageError: The server refuses or is away, or somebody else has replaced it meanwhile.
    """
    store = open_storage(location)
    text = (folder / manifest).read_bytes()
    before = store.read(manifest)
    entries = _entries(location, json.loads(text))
    for entry in entries:
        if store.size(entry.source) != entry.size:
            store.upload(folder / entry.name, entry.source)
    store.replace(manifest, text, None if before is None else before[1])
    if before is not None:
        named = {entry.source for entry in entries}
        store.delete([name for name in _sources(location, before[0]) if name not in named])


def read_checkpoint(location: Location, manifest: str) -> bytes | None:
    """Return the manifest of a checkpoint, None if there is none.

    Raises:
        StorageError: The server refuses or is away.
    """
    found = open_storage(location).read(manifest)
    return None if found is None else found[0]


def checkpoint_names(location: Location) -> list[str]:
    """Return the names of possible checkpoints below a place.

    Raises:
        StorageError: The server refuses or is away.
    """
    return open_storage(location).folders()


def fetch_checkpoint(location: Location, manifest: str) -> Path:
    """Bring a checkpoint to the cache.

    Returns:
        Its folder.

    Raises:
        StorageError: It is missing or damaged, or the server refuses or is away.
    """
    store, cache = open_storage(location), Cache()
    for last in (False, True):
        found = store.read(manifest)
        if found is None:
            raise StorageError(f"there is no checkpoint at {location}")
        text = found[0]
        entries = _entries(location, _parsed(location, text))
        pin = cache.pin(cache.views / hashlib.sha256(text).hexdigest()[:32])
        try:
            store.fill(cache, pin.folder, entries)
        except MissingObject:
            if last:
                raise
            store = open_storage(location)  # it was replaced or deleted meanwhile
            continue
        write_atomically(pin.folder / manifest, text, durable=False)
        return keep(pin)
    raise AssertionError


def delete_checkpoint(location: Location, manifest: str) -> None:
    """Delete a checkpoint.

    Raises:
        StorageError: The server refuses or is away.
    """
    store = open_storage(location)
    found = store.read(manifest)
    if found is not None:
        store.delete([manifest, *_sources(location, found[0])])


def _parsed(location: Location, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise StorageError(f"{location} is no checkpoint: its manifest is damaged ({error})") from error
    return dict(data) if isinstance(data, dict) else {}


def _entries(location: Location, manifest: Mapping[str, Any]) -> list[Entry]:
    """Return the files that a manifest names."""
    try:
        entries = [
            Entry(name, str(sha256), int(size), f"{sha256[:16]}-{name}")
            for name, (size, sha256) in manifest["files"].items()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{location} is no checkpoint: its manifest is damaged ({error!r})") from error
    for entry in entries:
        if not FILE.fullmatch(entry.name) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
            raise StorageError(f"{location} is no checkpoint: its manifest names the file {entry.name!r}")
    return entries


def _sources(location: Location, text: bytes) -> list[str]:
    """Return the objects of a checkpoint that is to be replaced or deleted; none where it is damaged."""
    try:
        return [entry.source for entry in _entries(location, _parsed(location, text))]
    except StorageError:
        return []
