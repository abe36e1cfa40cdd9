"""TensorBoard's event files, written by the thread that trains.

torch's own writer hands every event to a thread, which opens the file anew for each. Handing over and taking turns with
that thread costs a training several times as long as writing to a buffer.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter

from physgym.training.kept_file import KeptFile
from physgym.training.loggers import as_number

Value = Summary.Value


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
        first = io.BytesIO()
        RecordWriter(first).write(Event(file_version="brain.Event:2", wall_time=time.time()).SerializeToString())
        self._file = KeptFile(path, what, first.getvalue())
        self._records = RecordWriter(self._file)

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self._file.path.parent)

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Write an event, to memory at least."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self._records.write(event.SerializeToString())

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
        try:
            points = [Value(tag=name, simple_value=value) for name, value in values.items()]
        except (TypeError, ValueError):
            points = [Value(tag=name, simple_value=as_number(name, value)) for name, value in values.items()]
        self._get_file_writer().add_summary(Summary(value=points), step, moment)
