"""TensorBoard's event files, written by the thread that trains.

torch's own writer hands every event to a thread, which opens the file anew for each. Handing over and taking turns with
that thread costs a training several times as long as writing to a buffer.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter

from physgym.errors import ConfigError

FLUSH_EVERY = 10.0  # seconds after which readers see what was written, at the latest with the next event
BUFFER = 1 << 16  # bytes; the events of several hundred batches

CANNOT_WRITE = (
    "the curves for TensorBoard cannot be written to {path}: {reason}. Make room there, or choose another folder; a "
    "training with checkpoints can be resumed"
)

Value = Summary.Value


def cannot_write(path: Path, error: OSError) -> ConfigError:
    """What to raise for an error of the file system."""
    return ConfigError(CANNOT_WRITE.format(path=path, reason=error.strerror or error))


class EventFile(FileWriter):
    """One event file.

    Args:
        path: Where; must not be there yet. Folders are made.

    Raises:
        ConfigError: It cannot be made; later from every method, if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        # not that of the base class, which starts a thread
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=BUFFER)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._records, self._failed, self._flushed = RecordWriter(self._file), False, 0.0
        self.add_event(Event(file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Write an event, to the buffer at least."""
        event.wall_time = now = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            self._fail(error)
        if not 0 <= now - self._flushed < FLUSH_EVERY:
            self._flushed = now
            self.flush()

    def flush(self) -> None:
        """Let readers see what was written; does nothing where that failed before."""
        try:
            if not self._failed:
                self._file.flush()
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file; what could not be written is given up."""
        self.flush()
        with suppress(OSError):  # it would try once more, and end with the error that was raised already
            self._file.close()

    def _fail(self, error: OSError) -> None:
        self._failed = True
        raise cannot_write(self.path, error) from error


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
        """A point of several curves as one event: one for each would take as long as the step of a small network.

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
