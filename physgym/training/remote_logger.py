"""`RemoteLogger`: the base class of loggers whose curves go to a server, by a process that may fail and wait."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from physgym.checks import at_least
from physgym.errors import ConfigError
from physgym.files import lock, replacing, short
from physgym.system.children import Child
from physgym.training.journal import (
    FILES,
    JOURNAL,
    LOG,
    STATE,
    Journal,
    JournalHead,
    SentState,
    companion,
    end_of_records,
    read_records,
)
from physgym.training.loggers import CurveAxis, CurvePoints, Logger, as_number, free_place

BINS = 64  # of a histogram
PATIENCE, PAUSE = 3.0, 0.05  # seconds for another process to end its sending, and between two looks


class RemoteLogger(Logger):
    """Logger that keeps everything in a file, its journal, and has a process of its own send that to a server.

    So a server that is away, refuses or never answers can neither end nor slow a training: there is a warning, the
    process tries again, and at the end of the training it has `wait` seconds for what is left. What was not sent by
    then stays in the journal, and ``physgym sync SESSION`` sends it, as does the training where it is resumed.

    A resumed training continues its journal from where the checkpoint was saved. Where the server has values from
    after that, it gets a new run with all values from the beginning: no value is lost, and none is in a run twice.

    A subclass names its `Tracker`, and hands the arguments of that to the constructor.

    Args:
        folder: Where to keep the journal; made if it is not there.
        arguments: Of the tracker, JSON data. They are stored: no passwords.
        later: Whether to send nothing while the training runs, as on a machine without a network.
        wait: Seconds that the end of a training waits, at the most, for what is still to be sent.
        **options: Further arguments of `Logger`.

    Attributes:
        tracker: The class of the tracker, as ``module:class``.
        name: Beginning of the names of its files.
        package: What has to be installed, and `extra`, as what part of physgym.

    Raises:
        ConfigError: The package is not installed, or an argument is wrong.
    """

    tracker: ClassVar[str]
    name: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str]

    def __init__(
        self,
        folder: str | Path,
        arguments: Mapping[str, Any],
        *,
        later: bool = False,
        wait: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(folder, **options)
        if importlib.util.find_spec(self.package) is None:
            raise ConfigError(f"{type(self).__name__} needs {self.package}: pip install 'physgym[{self.extra}]'")
        at_least("wait", wait, 0)
        self._wait = None if later else wait
        self._head = JournalHead("", self.tracker, dict(arguments))  # without the name of a training
        self._journal: Journal | None = None
        self._sender: _Sender | None = None  # while a training runs

    @classmethod
    def read(cls, folder: Path) -> CurvePoints:
        """Return the curves over epochs of the journal in a folder."""
        curves: CurvePoints = {}
        with suppress(OSError, ValueError):
            for record in read_records(folder / f"{cls.name}{JOURNAL}"):
                if record.get("axis") == "epoch":
                    for name, value in record["values"].items():
                        curves.setdefault(name, []).append((record["step"], float(value)))
        return curves

    def add_config(self, config: Mapping[str, Any]) -> None:
        """Note the configuration, which the server gets as the parameters of the run."""
        self._head.config.clear()
        self._head.config.update(config)

    # --- the journal

    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Open the journal; that of a training that continues ends with the checkpoint."""
        found = None if saved is None else self._found(saved)
        name, mine = f"{self.name}{JOURNAL}", self._head
        if saved is None or found is None:
            head = JournalHead(os.urandom(4).hex(), mine.tracker, mine.arguments, mine.config)
            place = free_place(self.folder, name)
            self._journal = Journal(self.folder / place / name, self.title, head, place)
        else:
            records, before = found
            head = JournalHead(saved["run"], mine.tracker, mine.arguments, mine.config)
            self._journal = Journal(self.folder / saved["place"] / name, self.title, head, saved["place"], records)
            elsewhere = (before.tracker, before.arguments) != (head.tracker, head.arguments)
            self._check_sent(records, elsewhere=elsewhere)
        self._journal.flush()
        if self._wait is not None:
            self._sender = _Sender(self._journal, self.title)

    def _found(self, saved: Mapping[str, Any]) -> tuple[int, JournalHead] | None:
        """Return the records of a position that are there, and the head; remove what follows."""
        path = self.folder / saved["place"] / f"{self.name}{JOURNAL}"
        head = JournalHead.read(path)
        if head is None or head.run != saved["run"]:
            return None
        with _alone(path):
            records, end = end_of_records(path, saved["records"])
            os.truncate(path, end)
        return records, head

    def _check_sent(self, records: int, *, elsewhere: bool) -> None:
        """Have everything sent again where the server has more than is left, or is another one."""
        assert self._journal is not None
        path = companion(self._journal.path, STATE)
        state = SentState.read(path, self._journal.head.run)
        if state.sent <= records and not elsewhere:
            return
        try:
            remote = None if elsewhere or state.remote is None else {**state.remote, "superseded": True}
            SentState(state.run, remote=remote).write(path)
        except OSError:
            path.unlink(missing_ok=True)

    def write(self, values: Mapping[str, float], step: int, moment: float, axis: CurveAxis) -> None:
        """Write a record."""
        numbers = {name: as_number(name, value) for name, value in values.items()}
        self._record({"values": numbers, "step": step, "time": moment, "axis": axis})

    def flush(self) -> None:
        """Let the process that sends see what was written, and warn where it cannot send."""
        if self._journal is not None:
            self._journal.flush()
        if self._sender is not None:
            self._sender.warn_of_problems()

    def position(self) -> dict[str, Any]:
        """Return the number of the records, and what finds the journal."""
        assert self._journal is not None
        return {"run": self._journal.head.run, "place": self._journal.place, "records": self._journal.records}

    def release(self) -> None:
        """Close the journal, and give the process that sends it some time for what is left."""
        if self._journal is not None:
            self._journal.close()
        sender, self._sender = self._sender, None
        if sender is not None and self._wait is not None:
            sender.end(self._wait)

    def _record(self, record: Mapping[str, Any]) -> None:
        assert self._journal is not None
        self._journal.add(record)

    # --- what users add

    def add_histogram(self, name: str, values: Any, *, step: int | None = None) -> None:
        """Add a histogram, as `Logger` describes it."""
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
        numbers = array.astype(np.float64)
        counts, edges = np.histogram(numbers[np.isfinite(numbers)], BINS)
        self._add("histogram", name, step, {"counts": counts.tolist(), "edges": edges.tolist()})

    def add_image(self, name: str, pixels: Any, *, step: int | None = None) -> None:
        """Add an image, as `Logger` describes it."""
        from matplotlib.image import imsave

        array = pixels.detach().cpu().numpy() if hasattr(pixels, "detach") else np.asarray(pixels)
        png = io.BytesIO()
        imsave(png, array if array.dtype.kind == "f" else array.astype(np.uint8), format="png")
        self._add_file("image", name, f"{name}.png", png.getvalue(), step)

    def add_figure(self, name: str, figure: Any, *, step: int | None = None) -> None:
        """Add a figure of matplotlib, as `Logger` describes it."""
        png = io.BytesIO()
        figure.savefig(png, format="png")
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.close(figure)
        self._add_file("image", name, f"{name}.png", png.getvalue(), step)

    def add_text(self, name: str, text: str, *, step: int | None = None) -> None:
        """Add a text, as `Logger` describes it."""
        self._add("text", name, step, {"text": str(text)})

    def add_artifact(self, name: str, path: str | Path) -> None:
        """Add a file, of which a copy is kept until it is sent.

        Raises:
            ConfigError: There is no such file, or no training runs.
        """
        if not Path(path).is_file():
            raise ConfigError(f"the artifact {name!r}: there is no file {path}")
        self._add_file("file", name, Path(path).name, Path(path), None)

    def _add(self, kind: str, name: str, step: int | None, more: Mapping[str, Any]) -> None:
        self._check_open()
        self._record({"kind": kind, "name": name, "step": self._at(step), "time": time.time(), **more})

    def _add_file(self, kind: str, name: str, file: str, content: bytes | Path, step: int | None) -> None:
        """Keep a file for the server; one that the disk does not take is left out, with a warning."""
        self._check_open()
        assert self._journal is not None
        mark = hashlib.sha256(f"{name} {self._at(step)}".encode()).hexdigest()[:12]
        readable = "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in file)[-80:]
        kept = companion(self._journal.path, FILES) / mark / readable
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(kept, durable=False) as temporary:
                if isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    shutil.copyfile(content, temporary)
        except OSError as error:
            text = f"{name} cannot be kept in {kept.parent}: {error.strerror or error}. It is left out of {self.title}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
            return
        self._add(kind, name, step, {"file": f"{kept.parent.parent.name}/{mark}/{readable}"})


@contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Wait a moment for the process that sends a journal, and keep others from sending it within the block.

    Raises:
        ConfigError: It is still running.
    """
    descriptor, deadline = os.open(journal, os.O_RDONLY), time.monotonic() + PATIENCE
    try:
        while lock(descriptor, journal, warn=False) == "taken":
            if time.monotonic() > deadline:
                raise ConfigError(f"another process sends {journal}, such as physgym sync; wait for it, then try again")
            time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


class _Sender:
    """The process that sends a journal, as the training sees it.

    Args:
        journal: The journal.
        title: What is sent, for warnings.
    """

    def __init__(self, journal: Journal, title: str) -> None:
        self._journal, self._title, self._warned = journal, title, False
        self._state = companion(journal.path, STATE)
        state = self._read()
        if state.problem:  # of the last training
            state.problem = ""
            with suppress(OSError):
                state.write(self._state)
        self._child: Child | None = None
        command = [sys.executable, "-m", "physgym.training.sending", str(journal.path)]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            with companion(journal.path, LOG).open("ab") as log:
                self._child = Child(command, variables, stdin=subprocess.PIPE, stdout=log, stderr=log)
        except OSError as error:
            self._warn(error.strerror or str(error))

    def warn_of_problems(self) -> None:
        """Warn once where nothing can be sent."""
        if self._warned:
            return
        if self._child is not None and self._child.process.poll() is not None:
            self._warn(f"the process that sends them has ended, see {short(companion(self._journal.path, LOG))}")
        elif problem := self._read().problem:
            self._warn(problem)

    def end(self, wait: float) -> None:
        """Wait until everything is sent, but not longer than so many seconds; then end the process."""
        if self._child is not None:
            with self._child as child:
                assert child.process.stdin is not None
                with suppress(OSError):
                    # closing it alone would say nothing where other processes were forked meanwhile
                    child.process.stdin.write(b"end\n")
                    child.process.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(wait)
        state = self._read()
        journal = short(self._journal.path)
        if state.left_out:
            text = f"{state.left_out} values of {self._title} were refused, and are left out: {state.refused}"
            warnings.warn(text, RuntimeWarning, stacklevel=4)
        if not state.whole:
            reason = f" ({state.problem})" if state.problem else ""
            text = (
                f"{self._title} are not sent completely{reason}: {state.sent} of {self._journal.records} records are. "
                f"All of them are kept in {journal}; send them with: physgym sync "
                f"{shlex.quote(short(self._journal.path.parent))}"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _read(self) -> SentState:
        return SentState.read(self._state, self._journal.head.run)

    def _warn(self, problem: str) -> None:
        self._warned = True
        text = (
            f"{self._title} cannot be sent now: {problem}. They are kept in {short(self._journal.path)} and sent when "
            "that works again; the training continues"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=4)
