"""TensorBoard's event files, written by the thread that trains.

torch's own writer hands every event to a thread, which opens the file anew for each. Handing over and taking turns with
that thread costs a training several times as long as writing to a buffer.
"""

from __future__ import annotations

import io
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter

from physgym.errors import ConfigError

FLUSH_EVERY = 10.0  # seconds after which readers see what was written, at the latest with the next event
BUFFER = 1 << 16  # bytes that are written together: the events of several hundred batches

KEPT = 64 << 20  # bytes that are kept at most while they cannot be written

FAILS = (
    "the curves for TensorBoard cannot be written to {path} now: {reason}. They are kept in memory and written when "
    "that works again; the training goes on"
)
NOT_KEPT = "{path} cannot be written for so long that {size} MB of curves are kept; those that follow are left out"
GIVEN_UP = "the last curves could not be written to {path}, and are given up"
CANNOT_WRITE = (
    "the curves for TensorBoard cannot be written to {path}: {reason}. Make room there, or choose another folder; a "
    "training with checkpoints can be resumed"
)

Value = Summary.Value


def cannot_write(path: Path, error: OSError) -> ConfigError:
    """Return the error to raise for one of the file system."""
    return ConfigError(CANNOT_WRITE.format(path=path, reason=error.strerror or error))


class EventFile(FileWriter):
    """One event file.

    A write that fails (a full disk, a quota, a folder that was deleted) ends nothing: there is a warning, what was to
    be written is kept in memory, and it is written as soon as that works again.

    Args:
        path: Where; must not be there yet. Folders are made.

    Raises:
        ConfigError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        # not that of the base class, which starts a thread
        self.path = path
        self._kept = io.BytesIO()  # records that are still to be written
        self._records = RecordWriter(self._kept)
        self._flushed, self._failing, self._full = 0.0, False, False
        self._file = self._open_file()
        self._size = 0  # bytes in the file that are whole records
        self.add_event(Event(file_version="brain.Event:2"))

    def _open_file(self) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("xb", buffering=0)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self.path.parent)

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Write an event, to memory at least."""
        event.wall_time = now = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        size = self._kept.tell()
        if size > KEPT:
            if not self._full:
                self._full = True
                warnings.warn(NOT_KEPT.format(path=self.path, size=KEPT >> 20), RuntimeWarning, stacklevel=2)
        else:
            self._records.write(event.SerializeToString())
        if not 0 <= now - self._flushed < FLUSH_EVERY or (size > BUFFER and not self._failing):
            self._flushed = now
            self.flush()

    def flush(self) -> None:
        """Let readers see what was written; what cannot be written stays in memory."""
        data = memoryview(self._kept.getvalue())
        if not data:
            return
        try:
            self._reopen()
            self._file.seek(self._size)
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError as error:
            with suppress(OSError):  # half a record would hide those after it from readers
                self._file.truncate(self._size)
            if not self._failing:
                self._failing = True
                text = FAILS.format(path=self.path, reason=error.strerror or error)
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            return
        self._size += len(data)
        self._kept.seek(0)
        self._kept.truncate()
        self._failing = self._full = False

    def _reopen(self) -> None:
        """Make the file anew where somebody has deleted it, or the folder: nobody would find what is written to it."""
        if self.path.exists():
            return
        warnings.warn(f"{self.path} was deleted; its curves go on in a new file", RuntimeWarning, stacklevel=3)
        self._file.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._size = self.path.open("wb", buffering=0), 0
        first = io.BytesIO()
        RecordWriter(first).write(Event(file_version="brain.Event:2").SerializeToString())
        self._size = self._file.write(first.getvalue())

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        self.flush()
        if self._kept.tell():
            warnings.warn(GIVEN_UP.format(path=self.path), RuntimeWarning, stacklevel=2)
        with suppress(OSError):
            self._file.close()


class CurveWriter(SummaryWriter):
    """torch's `SummaryWriter` onto an `EventFile`.

    Args:
        path: The file.
    """

    file_writer: Any  # of the base class, which is typed as None there
    all_writers: Any

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path.parent))

    def _get_file_writer(self) -> EventFile:
        writer: EventFile = self.file_writer or EventFile(self._path)
        self.file_writer, self.all_writers = writer, {writer.get_logdir(): writer}
        return writer

    def add_values(self, values: dict[str, float], step: int, moment: float | None = None) -> None:
        """Add a point of several curves as one event: one for each would take as long as the step of a small network.

        Args:
            values: Values by the name of the curve.
            step: Where on the axis.
            moment: When it was, in seconds since 1970; now by default.

        Raises:
            ConfigError: A value is no number.
        """
        try:
            points = [Value(tag=name, simple_value=value) for name, value in values.items()]
        except (TypeError, ValueError):
            points = [Value(tag=name, simple_value=_number(name, value)) for name, value in values.items()]
        self._get_file_writer().add_summary(Summary(value=points), step, moment)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a curve takes numbers; {name} has the value {value!r}, a {type(value).__name__}") from error
