"""Datasets in S3: what is there, and how it comes to the local disk.

Below the place lie ``dataset.json``, the description, and the partitions, each in an object whose name holds its
checksum, so that it never changes. The description names only objects that are there: it is replaced after they have
been uploaded, and they are deleted after it names them no longer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from physgym.data import constants
from physgym.data.description import DESCRIPTION, FORMAT, VERSION, Description, Mode
from physgym.errors import StorageError
from physgym.storage.backend import Backend, MissingObject, open_storage
from physgym.storage.cache import Cache, Entry, Pin
from physgym.storage.location import Location

FILE = re.compile(rf"({'|'.join(get_args(Mode))})-\d{{5}}\.h5")
OBJECT = re.compile(r"[A-Za-z0-9._-]+")
ATTEMPTS = 5  # to read a dataset while its writer replaces its partitions


@dataclass(frozen=True)
class RemoteDescription:
    """Description of a dataset in S3.

    Attributes:
        data: As JSON has it.
        sha256: Of its bytes.
        tag: Entity tag of its object.
    """

    data: dict[str, Any]
    sha256: str
    tag: str

    @property
    def modes(self) -> dict[str, Any]:
        """Return what the description says of each mode."""
        return dict(self.data["modes"])

    @property
    def metadata(self) -> dict[str, str]:
        """Return what people said of the dataset, by key."""
        return {str(key): str(value) for key, value in dict(self.data.get("metadata", {})).items()}

    def entries(self, mode: str) -> list[Entry]:
        """Return the partitions of a mode."""
        return [as_entry(part) for part in self.data["modes"].get(mode, {}).get("partitions", [])]

    @property
    def constants(self) -> Entry | None:
        """Return the file of values that are stored once, None where there is none."""
        found = self.data.get("constants")
        return as_entry(found) if isinstance(found, Mapping) else None

    @property
    def sources(self) -> list[str]:
        """Return the objects that it names."""
        files = [entry for mode in self.modes for entry in self.entries(mode)]
        return [entry.source for entry in (*files, *([self.constants] if self.constants else ()))]

    def local(self, entries: Mapping[str, Sequence[Entry]]) -> Description:
        """Return the description of a folder that has some of the partitions, by mode."""
        modes = {}
        for mode, present in entries.items():
            names, described = {entry.name for entry in present}, self.modes.get(mode)
            if described is not None:
                parts = [part for part in described["partitions"] if part["file"] in names]
                modes[mode] = {**described, "samples": sum(part["samples"] for part in parts), "partitions": parts}
        return Description(modes, self.data.get("constants"), metadata=self.metadata)


def read_description(store: Backend) -> RemoteDescription | None:
    """Return the description of a dataset, None if there is none.

    Raises:
        StorageError: It is damaged, or the server refuses or is away.
    """
    found = store.read(DESCRIPTION)
    if found is None:
        return None
    text, tag = found
    try:
        data = json.loads(text)
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it has format {data['format']}, version {data['version']}")
        for mode, described in data["modes"].items():
            for part in described["partitions"]:
                entry = as_entry(part)
                if (match := FILE.fullmatch(entry.name)) is None or match[1] != mode:
                    raise ValueError(f"it names the file {entry.name!r}")
                if not OBJECT.fullmatch(entry.source) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
                    raise ValueError(f"it names the object {entry.source!r}")
                if not (entry.size > 0 and int(part["samples"]) >= 0):
                    raise ValueError(f"{entry.name} has {entry.size} bytes")
        if (known := RemoteDescription(data, "", "").constants) is not None and known.name != constants.CONSTANTS:
            raise ValueError(f"it names the file {known.name!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise StorageError(
            f"{store.location / DESCRIPTION} is no description of a dataset: {problem}. Its writer makes it again when "
            "it continues the dataset"
        ) from error
    return RemoteDescription(data, hashlib.sha256(text).hexdigest(), tag)


def as_entry(part: Mapping[str, Any]) -> Entry:
    """Return a partition of a description as a file of the cache."""
    return Entry(str(part["file"]), str(part["digest"]), int(part["size"]), str(part["object"]))


def fetch_dataset(location: Location, modes: tuple[str, ...], samples: int | None = None) -> Pin:
    """Bring a dataset to the local disk, as far as the cache does not hold it.

    Args:
        location: Where it is.
        modes: Which parts of it.
        samples: Only the partitions with the first so many samples.

    Returns:
        Its folder, which stays as it is as long as the object lives.

    Raises:
        StorageError: There is none, it is damaged, the server refuses or is away, or the cache is too small.
    """
    store, cache = open_storage(location), Cache()
    described = _described(store)
    for attempt in range(1, ATTEMPTS + 1):
        chosen = {mode: _first(described, mode, samples) for mode in modes}
        entries = [entry for found in chosen.values() for entry in found]
        entries += [described.constants] if described.constants else []
        local = described.local(chosen)
        names = json.dumps([[(entry.name, entry.sha256) for entry in entries], local.modes, local.metadata])
        pin = cache.pin(cache.views / hashlib.sha256(names.encode()).hexdigest()[:32])
        try:
            store.fill(cache, pin.folder, entries)
            _describe(pin.folder, local)
        except MissingObject as error:
            store = open_storage(location)
            now = _described(store)
            if attempt == ATTEMPTS or now.sha256 == described.sha256:
                raise StorageError(
                    f"{error}, though {location / DESCRIPTION} names it. Generate the dataset again"
                ) from error
            described = now  # its writer has replaced partitions
        else:
            return pin
    raise AssertionError


def _describe(folder: Path, description: Description) -> None:
    """Put the description next to the partitions, where it is not yet.

    Raises:
        StorageError: The disk refuses.
    """
    if (folder / DESCRIPTION).exists():
        return
    try:
        description.write(folder)
    except OSError as error:
        raise StorageError(f"cannot write {folder / DESCRIPTION}: {error.strerror}") from error


def has_samples(location: Location, mode: Mode = "training") -> bool:
    """Return whether there are samples of a mode.

    Raises:
        StorageError: The server refuses or is away.
    """
    described = read_description(open_storage(location))
    return described is not None and any(
        part["samples"] for part in described.modes.get(mode, {}).get("partitions", [])
    )


def _described(store: Backend) -> RemoteDescription:
    found = read_description(store)
    if found is None:
        raise StorageError(f"there is no dataset at {store.location}: it has no {DESCRIPTION}")
    return found


def _first(described: RemoteDescription, mode: str, samples: int | None) -> list[Entry]:
    """Return the partitions with the first samples of a mode."""
    entries, count = [], 0
    for entry, part in zip(described.entries(mode), described.modes.get(mode, {}).get("partitions", []), strict=True):
        if samples is not None and count >= samples:
            break
        entries.append(entry)
        count += int(part["samples"])
    return entries
