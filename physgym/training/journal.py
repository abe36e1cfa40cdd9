"""`Journal`: what a logger has for a server, in a file that outlives the training, the server and the network."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from physgym.files import write_atomically
from physgym.training.kept_file import KeptFile

FORMAT = 1
JOURNAL, STATE, LOG, FILES = ".journal", ".sent", ".log", "-files"  # endings of names


@dataclass(frozen=True)
class JournalHead:
    """The first line of a journal: whose values follow, and where they go.

    Attributes:
        run: Name of the training, which no other one has.
        tracker: The class of `Tracker` that sends them, as ``module:class``.
        arguments: Its arguments, JSON data.
        config: The configuration of the training, JSON data.
    """

    run: str
    tracker: str
    arguments: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return it as the line of the file."""
        return json_line({"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> JournalHead | None:
        """Return the head of a journal; None where there is none."""
        try:
            with path.open("rb") as stream:
                found = json.loads(stream.readline())
            if found.pop("format") != FORMAT:
                return None
            return cls(**found)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None


@dataclass
class SentState:
    """Part of a journal that was sent, in a file next to it.

    Attributes:
        run: Name of the training.
        sent: Records that the server has.
        whole: Whether it has all of them and knows that the training has ended.
        remote: What the tracker finds its run by; None where it has none yet.
        problem: Why nothing can be sent now; empty where it can.
        left_out: Records that the server refuses for good.
        refused: What it said to the last one of these.
    """

    run: str
    sent: int = 0
    whole: bool = False
    remote: dict[str, Any] | None = None
    problem: str = ""
    left_out: int = 0
    refused: str = ""

    @classmethod
    def read(cls, path: Path, run: str) -> SentState:
        """Return the state of a training; of one of which nothing was sent where there is no such file."""
        try:
            found = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls(run)
        return found if found.run == run else cls(run)

    def write(self, path: Path) -> None:
        """Write it, at once.

        Raises:
            OSError: The disk refuses.
        """
        write_atomically(path, json.dumps(asdict(self)), durable=False)


class Journal:
    """File of records, a line of JSON each, to which a training adds.

    Args:
        path: The file; must not be there yet, unless `records` says how many it has.
        what: What is written, for warnings.
        head: Its first line.
        place: Of the file in the folder of the logger, for `Logger.position`.
        records: Number of the records in a file that is there; None for a new one.

    Attributes:
        path: The file.
        head: Its first line.
        place: As given.

    Raises:
        ConfigError: It cannot be made, or opened.
    """

    def __init__(self, path: Path, what: str, head: JournalHead, place: str, records: int | None = None) -> None:
        self.path, self.head, self.place = path, head, place
        before = head if records is None else JournalHead.read(path)
        self._file = KeptFile(path, what, (before or head).line(), records)
        if before != head:
            self._file.begin_with(head.line(), lambda line: line)

    @property
    def records(self) -> int:
        """Return the number of records, those that the disk has not got yet too."""
        return self._file.records

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        self._file.write(json_line(record))

    def flush(self) -> None:
        """Let readers see the records."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def json_line(data: Mapping[str, Any]) -> bytes:
    """Return data as a line of JSON, in which numbers that are not finite are texts, as `float` reads them."""
    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), allow_nan=False)
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class JournalReader:
    """Reader of a journal that grows, which continues where it was.

    Args:
        path: The file.
        first: The record with which to begin.
    """

    def __init__(self, path: Path, first: int) -> None:
        self._path, self._end = path, end_of_records(path, first)[1]
        self._file = path.stat().st_ino

    def records(self, most: int) -> list[tuple[dict[str, Any], int]]:
        """Return the next records, those whose lines are complete, each with the byte at which it ends.

        Where somebody has deleted the file, and the training continues in a new one, these are the records of that.

        Raises:
            OSError: It cannot be read.
            ValueError: It is damaged.
        """
        found = []
        with self._path.open("rb") as stream:
            if (file := os.fstat(stream.fileno()).st_ino) != self._file:
                self._file, self._end = file, len(stream.readline())
            end = stream.seek(self._end)
            for line in itertools.islice(stream, most):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                found.append((json.loads(line), end))
        return found

    def go_on(self, end: int) -> None:
        """Leave the records before a byte behind."""
        self._end = end


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a journal, those whose lines are complete.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    with path.open("rb") as stream:
        for line in itertools.islice(stream, 1, None):
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def end_of_records(path: Path, most: int) -> tuple[int, int]:
    """Return how many of the first records of a journal are complete, and at which byte they end."""
    count, end = -1, 0  # the first line is the head
    with path.open("rb") as stream:
        for line in itertools.islice(stream, 1 + most):
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
    return count, end


def record_count(path: Path) -> int:
    """Return how many records a journal has, those whose lines are complete.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        return max(0, sum(line.endswith(b"\n") for line in stream) - 1)


def journals_below(folder: Path) -> list[Path]:
    """Return the journals in a folder and all below it."""
    return sorted(path for path in folder.rglob(f"*{JOURNAL}") if JournalHead.read(path) is not None)


def companion(journal: Path, ending: str) -> Path:
    """Return the file, or folder, that belongs to a journal and has its name with another ending."""
    return journal.with_name(journal.name.removesuffix(JOURNAL) + ending)


def by_dotted_key(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration by their dotted keys; an empty section is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from by_dotted_key(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
