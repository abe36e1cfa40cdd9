"""TensorBoard's event files, written by the thread that trains.

torch's own writer hands every event to a thread, which opens the file again for each. Handing over and taking turns
with that thread costs a training several times as long as writing to a buffer.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # type: ignore[import-untyped]
    masked_crc32c,
)
from torch.utils.tensorboard import FileWriter, SummaryWriter

from physgym.spaces import Array
from physgym.training.kept_file import KeptFile
from physgym.training.loggers import as_number

Value = Summary.Value

SHORT = 512  # bytes of an event up to which its checksum is looked up
CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, its bits reversed


class EventFile(FileWriter):
    """One event file, as a `KeptFile`.

    Args:
        path: Where; must not be there yet. Folders are made.
        what: What is written, for the warnings.

    Raises:
        ConfigError: It cannot be made.
    """

    def __init__(self, path: Path, what: str) -> None:
        # not that of the base class, which starts a thread
        first = Event(file_version="brain.Event:2", wall_time=time.time())
        self._file = KeptFile(path, what, as_record(first.SerializeToString()))

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self._file.path.parent)

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Write an event, to memory at least."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.add(event)

    def add(self, event: Any) -> None:
        """Write an event that has its time and step."""
        self._file.write(as_record(event.SerializeToString()))

    def flush(self) -> None:
        """Let readers see what was written; what cannot be written stays in memory."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        self._file.close()


class CurveWriter(SummaryWriter):
    """torch's `SummaryWriter` onto an `EventFile`.

    Args:
        path: The file.
        what: What is written, for the warnings.
    """

    file_writer: Any  # of the base class, which is typed as None there
    all_writers: Any

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        super().__init__(str(path.parent))

    def _get_file_writer(self) -> EventFile:
        writer: EventFile = self.file_writer or EventFile(self._path, self._what)
        self.file_writer, self.all_writers = writer, {writer.get_logdir(): writer}
        return writer

    def add_values(self, values: Mapping[str, float], step: int, moment: float | None = None) -> None:
        """Add a point of several curves as one event: one for each would take as long as the step of a small network.

        Args:
            values: Values by the name of the curve.
            step: Where on the axis.
            moment: When it was, in seconds since 1970; now by default.

        Raises:
            ConfigError: A value is no number.
        """
        event = Event(wall_time=time.time() if moment is None else moment, step=step)
        add = event.summary.value.add
        try:
            for name, value in values.items():
                add(tag=name, simple_value=value)
        except (TypeError, ValueError):
            numbers = {name: as_number(name, value) for name, value in values.items()}
            event.summary.CopyFrom(Summary(value=[Value(tag=name, simple_value=one) for name, one in numbers.items()]))
        self._get_file_writer().add(event)


def as_record(data: bytes) -> bytes:
    """Return an event as it stands in an event file: its length, and it, each with a checksum behind."""
    return b"".join((*_length(len(data)), data, struct.pack("<I", checksum(data))))


@cache
def _length(count: int) -> tuple[bytes, bytes]:
    packed = struct.pack("<Q", count)
    return packed, struct.pack("<I", checksum(packed))


def checksum(data: bytes) -> int:
    """Return the checksum of TensorBoard, a masked CRC-32C.

    TensorBoard's own function goes from byte to byte in Python, which for the curves of a batch takes half as long as
    the step of a small network. Here each byte contributes what a table says for its value and place.
    """
    if not 0 < len(data) <= SHORT:
        return int(masked_crc32c(data))
    numbers = np.frombuffer(data, np.uint8)
    parts = _contributions()[_PLACES[-len(data) :], numbers]
    crc = int(np.bitwise_xor.reduce(parts)) ^ int(_of_zeros()[len(data)])
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


_PLACES = np.arange(SHORT)[::-1]  # bytes that follow


@cache
def _contributions() -> Array:
    """Return what each byte adds to a CRC-32C, by the number of bytes that follow and its value; (SHORT, 256)."""
    table = np.empty((SHORT, 256), np.uint32)
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = (first >> np.uint32(1)) ^ np.where(first & np.uint32(1), np.uint32(CASTAGNOLI), np.uint32(0))
    table[0] = first
    for place in range(1, SHORT):
        table[place] = (table[place - 1] >> np.uint32(8)) ^ first[table[place - 1] & np.uint32(255)]
    return table


@cache
def _of_zeros() -> Array:
    """Return the CRC-32C of as many zeros, by their number up to `SHORT`."""
    found, crc, first = np.zeros(SHORT + 1, np.uint32), 0xFFFFFFFF, _contributions()[0]
    for count in range(1, SHORT + 1):
        crc = (crc >> 8) ^ int(first[crc & 255])
        found[count] = crc ^ 0xFFFFFFFF
    return found
