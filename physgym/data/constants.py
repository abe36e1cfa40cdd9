"""Constants: arrays that a dataset stores once, such as the mesh or the material of a simulation.

They lie in one file next to the description, ``constants.npz`` (uncompressed, as numpy writes it), which is
written once. Everything that writes to the dataset later must bring the same ones.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.casting import CastError, as_array
from physgym.errors import ConfigError, DatasetError
from physgym.files import read_regular, write_atomically
from physgym.spaces import Array

CONSTANTS = "constants.npz"
LARGEST = 1 << 34  # bytes
KINDS = "biufcSU"

DAMAGED = "{file} is no readable file of constants ({problem}). Restore a copy"
GONE = "{folder} lacks {file}, the constants that its description names. Restore a copy"


def as_constants(values: Mapping[str, Any]) -> dict[str, Array]:
    """Return values as arrays that a file of constants can hold, as copies.

    Raises:
        ConfigError: A name or a value does not fit.
    """
    found = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name or name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise ConfigError(f"{name!r} cannot name a constant; take a text such as 'mesh/nodes'")
        if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
            raise ConfigError(f"the constant {name!r} has missing values, which an array cannot keep; fill them")
        try:
            array = as_array(value).copy()
        except CastError as error:
            raise ConfigError(f"the constant {name!r} {error}") from error
        if array.dtype.kind not in KINDS:
            raise ConfigError(f"the constant {name!r} has dtype {array.dtype}; they are numbers, flags and texts")
        found[name] = array
    return dict(sorted(found.items()))


def encode(values: Mapping[str, Array]) -> bytes:
    """Return constants as the bytes of a file; equal values give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, value in sorted(values.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, value, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())  # without the time
    return stream.getvalue()


def decode(data: bytes, file: Path) -> dict[str, Array]:
    """Return the constants of a file, read-only.

    Raises:
        DatasetError: They are no such bytes.
    """
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
                    raise ValueError(f"{member.filename} is compressed")
                stream = io.BytesIO(archive.read(member))
                value = np.lib.format.read_array(stream, allow_pickle=False)
                value.flags.writeable = False
                found[member.filename.removesuffix(".npy")] = value
    except Exception as error:
        raise DatasetError(DAMAGED.format(file=file, problem=error)) from error
    return found


def read(folder: Path, entry: Mapping[str, Any] | str | None = None) -> dict[str, Array]:
    """Return the constants of a dataset, an empty dictionary where it has none.

    Args:
        folder: The dataset.
        entry: What its description says of them, None for nothing.

    Raises:
        DatasetError: The file is damaged, missing or not the one that is named.
    """
    file = folder / CONSTANTS
    data = _bytes(file)
    if isinstance(entry, Mapping):
        if data is None:
            raise DatasetError(GONE.format(folder=folder, file=CONSTANTS))
        if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
            raise DatasetError(
                f"{file} is not the file of constants that dataset.json names: its checksum is wrong. Restore a copy"
            )
    elif entry is not None and data is None:
        raise DatasetError(
            f"the constants of {folder} are unknown: {CONSTANTS} was not there when its description was rewritten. "
            "Restore a copy, or continue the dataset with its simulation, which gives them again"
        )
    return {} if data is None else decode(data, file)


def recorded(folder: Path) -> dict[str, Any] | None:
    """Return what a description says of the constants in a folder, None where there are none.

    Raises:
        DatasetError: The file is damaged.
    """
    data = _bytes(folder / CONSTANTS)
    if data is None:
        return None
    names = list(decode(data, folder / CONSTANTS))
    return {"file": CONSTANTS, "sha256": hashlib.sha256(data).hexdigest(), "names": names}


def store(folder: Path, values: Mapping[str, Any], *, durable: bool = False) -> dict[str, Any]:
    """Write the constants of a dataset once, and return what its description says of them.

    Raises:
        ConfigError: A name or a value does not fit.
        DatasetError: There are others already.
        OSError: The disk refuses.
    """
    wanted = as_constants(values)
    there = read(folder) if _bytes(folder / CONSTANTS) is not None else None
    if there is None:
        write_atomically(folder / CONSTANTS, encode(wanted), durable=durable)
    elif names := differing(there, wanted):
        raise DatasetError(
            f"the dataset at {folder} has the constants {sorted(there)}, and these differ in {names}. They are stored "
            "once, and are equal in every run, mode and resume: write another dataset"
        )
    entry = recorded(folder)
    assert entry is not None
    return entry


def differing(one: Mapping[str, Array], other: Mapping[str, Array]) -> list[str]:
    """Return the names of the constants that are not the same in both, bit by bit."""
    return [name for name in sorted({*one, *other}) if not _equal(one.get(name), other.get(name))]


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return False
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _bytes(file: Path) -> bytes | None:
    try:
        return read_regular(file, LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(DAMAGED.format(file=file, problem=error)) from error
