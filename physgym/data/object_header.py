"""Object headers of HDF5, as the oldest version writes them: what a file says of its root or of a dataset.

They are read where HDF5 would not do it safely, or would not say where a number stands.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from physgym.data.recorded_file import RecordedFile

DATASPACE, LAYOUT, ATTRIBUTE, CONTINUATION = 0x01, 0x08, 0x0C, 0x10  # kinds of messages
MOST = 1 << 26  # bytes of a block


@dataclass(frozen=True)
class HeaderMessage:
    """A message of an object header.

    Attributes:
        kind: Of the message.
        place: Its first byte in the file.
        body: Its bytes.
    """

    kind: int
    place: int
    body: bytes


def messages(file: RecordedFile, address: int) -> Iterator[HeaderMessage]:
    """Yield the messages of an object header.

    Args:
        file: The file.
        address: Of the header.

    Raises:
        ValueError: It is damaged, or of another version.
    """
    version, _, count, _, size = struct.unpack("<BBHII", file.bytes_at(address, 12))
    if version != 1:
        raise ValueError(f"an object has a header of version {version}")
    blocks, seen = [(address + 16, size)], set()
    while blocks:
        place, size = blocks.pop()
        if place in seen or size > MOST:
            raise ValueError("the header of an object is damaged")
        seen.add(place)
        block, at = file.bytes_at(place, size), 0
        while at + 8 <= size and count > 0:
            kind, length = struct.unpack_from("<HH", block, at)
            body = block[at + 8 : at + 8 + length]
            if kind == CONTINUATION:
                blocks.append((number_in(body, 0), number_in(body, 8)))
            else:
                yield HeaderMessage(kind, place + at + 8, body)
            at, count = at + 8 + length, count - 1


def number_in(data: bytes, at: int) -> int:
    """Return the number of eight bytes that begins at a place of some bytes."""
    (found,) = struct.unpack_from("<Q", data, at)
    return int(found)
