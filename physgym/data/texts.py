"""Texts of a partition's root group: attributes of a fixed length, and the long ones in datasets of their own.

Older partitions have attributes of variable length, which lie in the global heap of HDF5. It may loop for ever where a
heap is damaged, so they are read here, from the bytes of the file and in as many steps as the heap has places.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from physgym.data.object_header import ATTRIBUTE, MOST, messages, number_in
from physgym.data.recorded_file import RecordedFile
from physgym.spaces import Array

LONGEST = 60_000  # bytes of an attribute; HDF5 holds 64 kB in an object header
GROUP = "texts"  # of the longer ones
SIGNATURE = b"\x89HDF\r\n\x1a\n"
VARIABLE = 9  # class of datatypes

OTHER = "its attribute {name!r} is of a kind that no partition has"


def write_texts(file: h5py.File, values: Mapping[str, Any]) -> dict[str, bytes]:
    """Write texts and numbers as attributes of the root; the texts that are too long are returned."""
    long = {}
    for name, value in sorted(values.items()):
        if not isinstance(value, str):
            file.attrs[name] = value
        elif len(data := value.encode()) > LONGEST:
            long[f"{GROUP}/{name}"] = data
        else:
            write_text(file, name, value)
    return long


def write_text(item: h5py.Group | h5py.Dataset, name: str, value: str) -> None:
    """Write a text as an attribute of a fixed length."""
    data = value.encode()
    item.attrs.create(name, np.bytes_(data), dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def text_dtype(data: bytes) -> np.dtype[Any]:
    """Return the type of a dataset that holds one text."""
    found: np.dtype[Any] = h5py.string_dtype("utf-8", max(1, len(data)))
    return found


def read_attributes(file: h5py.File, recorded: RecordedFile) -> dict[str, Any]:
    """Return the attributes of the root, texts as texts.

    Args:
        file: The open file.
        recorded: Its bytes.

    Raises:
        ValueError: One is of a kind that no partition has, or damaged.
    """
    found: dict[str, Any] = {}
    variable = []
    for name in file.attrs:
        attribute = h5py.h5a.open(file.id, name.encode())
        kind = attribute.get_type()
        if attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
            raise ValueError(OTHER.format(name=name))
        if isinstance(kind, h5py.h5t.TypeStringID):
            if kind.is_variable_str():
                variable.append(name)
            else:
                found[name] = bytes(file.attrs[name]).decode()
        elif isinstance(kind, (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)):
            value = file.attrs[name]
            found[name] = value.item() if isinstance(value, np.generic) else value
        else:
            raise ValueError(OTHER.format(name=name))
    if variable:
        texts = dict(_variable_texts(recorded))
        found |= {name: texts[name] for name in variable}
    return found


def on_disk(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return how values lie in a file: texts as UTF-8 of a fixed length, padded with zeros; the others as they are."""
    if dtype.kind != "U":
        return dtype
    found: np.dtype[Any] = h5py.string_dtype("utf-8", dtype.itemsize)  # four bytes are enough for any character
    return found


def encoded(rows: Array) -> Array:
    """Return texts as they lie in a file, other arrays as they are.

    Raises:
        UnicodeEncodeError: A text has half a character, which UTF-8 cannot hold.
    """
    if rows.dtype.kind != "U":
        return rows
    found: Array = np.char.encode(rows, "utf-8").astype(f"S{rows.dtype.itemsize}")
    return found


def decoded(raw: Array, dtype: np.dtype[Any]) -> Array:
    """Return texts of a file as texts.

    Raises:
        UnicodeDecodeError: They are none.
    """
    found: Array = np.char.decode(raw, "utf-8").astype(dtype)
    return found


def _variable_texts(recorded: RecordedFile) -> Iterator[tuple[str, str]]:
    """Yield the root's attributes that are texts of variable length."""
    head = recorded.bytes_at(0, 96)
    if head[:8] != SIGNATURE or head[8] != 0 or head[13:15] != b"\x08\x08" or number_in(head, 24):
        raise ValueError("its superblock is not one of a partition")
    for message in (one.body for one in messages(recorded, number_in(head, 64)) if one.kind == ATTRIBUTE):
        version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", message)
        if version not in (1, 3):
            raise ValueError(f"an attribute has version {version}")
        start = 8 if version == 1 else 9
        sizes = [_padded(size) if version == 1 else size for size in (name_size, type_size, space_size)]
        name = message[start : start + name_size].split(b"\0")[0].decode()
        kind = message[start + sizes[0] : start + sizes[0] + type_size]
        if len(kind) > 1 and kind[0] & 15 == VARIABLE and kind[1] & 15 == 1:
            length, address, index = struct.unpack_from("<IQI", message, start + sum(sizes))
            yield name, _of_heap(recorded, address, index)[:length].decode() if length else ""


def _of_heap(recorded: RecordedFile, address: int, wanted: int) -> bytes:
    """Return an object of a global heap."""
    head = recorded.bytes_at(address, 16)
    size = number_in(head, 8)
    if head[:5] != b"GCOL\x01" or size > MOST:
        raise ValueError("its heap of texts is damaged")
    heap, at = recorded.bytes_at(address, size), 16
    while at + 16 <= size:
        index, length = struct.unpack_from("<H6xQ", heap, at)
        if index == 0 or length > size - at - 16:
            break
        if index == wanted:
            return heap[at + 16 : at + 16 + length]
        at += 16 + _padded(length)
    raise ValueError("its heap of texts is damaged")


def _padded(size: int) -> int:
    return -(-size // 8) * 8
