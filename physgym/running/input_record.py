"""The record of a person's inputs to a run: a file of lines of JSON, of which the first one says whose run it was.

Each other line is a change: episode, step at whose beginning it was made, name and value. A line is on the disk before
the sample that depends on it; half a line at the end, of a process that was killed, is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from physgym.checks import is_integer
from physgym.errors import ConfigError, DatasetError
from physgym.files import flush, flush_open, open_regular, read_regular, short, write_atomically
from physgym.scene.inputs import RECORD, InputValue, SceneInput

FORMAT = "physgym inputs"
VERSION = 1
LARGEST = 1 << 28  # bytes of a record
KEYS = {"episode", "step", "name", "value"}


@dataclass(frozen=True)
class InputChange:
    """A change of an input.

    Attributes:
        episode: Index of the episode.
        step: The step at whose beginning it was made.
        name: Of the input.
        value: As `physgym.scene.inputs.SceneInput` has it.
    """

    episode: int
    step: int
    name: str
    value: InputValue


@dataclass(frozen=True)
class InputRecord:
    """A record that was read.

    Attributes:
        path: The file.
        source: What the steps of the run were a function of, but for the inputs.
        code: Record of the code of the simulation.
        changes: The changes in the order of their steps.
        size: Bytes of the whole lines.
    """

    path: Path
    source: Mapping[str, Any]
    code: Mapping[str, Any]
    changes: tuple[InputChange, ...]
    size: int

    @classmethod
    def read(cls, path: str | Path) -> InputRecord:
        """Return the record in a file, or in the folder of the dataset that the run has stored.

        Raises:
            ConfigError: There is none, or it is damaged.
        """
        file = Path(path)
        file = file / RECORD if file.is_dir() else file
        try:
            data = read_regular(file, LARGEST)
        except OSError as error:
            raise ConfigError(
                f"there is no record of inputs {short(file)} ({error.strerror}); name the file, or the folder of "
                "samples that a run with inputs has recorded"
            ) from error
        lines = data.split(b"\n")[:-1]  # a line without its end was not written
        head = _line(lines[0]) if lines else None
        if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("source"), dict):
            raise ConfigError(f"{short(file)} is no record of inputs: its first line does not say so")
        if head.get("version") != VERSION:
            raise ConfigError(
                f"{short(file)} is a record of inputs of version {head.get('version')!r}, this physgym reads {VERSION}"
            )
        changes = [_change(file, number, line) for number, line in enumerate(lines[1:], start=2)]
        changes.sort(key=lambda one: (one.episode, one.step))
        code = head.get("code")
        size = sum(len(line) + 1 for line in lines)
        return cls(file, head["source"], code if isinstance(code, dict) else {}, tuple(changes), size)

    def by_episode(self) -> dict[int, list[tuple[int, str, InputValue]]]:
        """Return step, name and value of the changes of each episode that has some."""
        found: dict[int, list[tuple[int, str, InputValue]]] = {}
        for one in self.changes:
            found.setdefault(one.episode, []).append((one.step, one.name, one.value))
        return found

    def check(self, inputs: Mapping[str, SceneInput], max_steps: int) -> None:
        """Check the changes against the inputs of a simulation.

        Raises:
            ConfigError: One is of an unknown input, has a value out of range, or belongs to a step that no episode has.
        """
        for one in self.changes:
            where = f"{short(self.path)}, episode {one.episode}, step {one.step}"
            if one.name not in inputs:
                known = ", ".join(inputs) or "none"
                raise ConfigError(f"{where}: the simulation has no input {one.name[:100]!r}; it has {known}")
            try:
                inputs[one.name].checked(one.value)
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from error
            if one.step >= max_steps:
                raise ConfigError(f"{where}: there is no such step, episodes have at most {max_steps} (max_steps)")


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _change(file: Path, number: int, line: bytes) -> InputChange:
    found = _line(line)
    if not isinstance(found, dict) or found.keys() != KEYS or not isinstance(found["name"], str):
        raise ConfigError(f"{short(file)}, line {number}: it is no change of an input: {line[:100]!r}")
    for key in ("episode", "step"):
        if not is_integer(found[key], 0):
            raise ConfigError(f"{short(file)}, line {number}: there is no {key} {found[key]!r:.100}")
    return InputChange(**found)


def name_for(folder: Path, record: str) -> Path:
    """Return the path, in a folder, of the inputs to a run whose samples are recorded in a storage such as S3."""
    return folder / f"inputs-{hashlib.sha256(record.encode()).hexdigest()[:16]}.jsonl"


def free_name(folder: Path) -> Path:
    """Return the path of a new record in a folder: no earlier one is replaced."""
    names = (RECORD if number == 1 else f"inputs-{number}.jsonl" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())


def head_of(source: Mapping[str, Any], code: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line of a record."""
    return {"format": FORMAT, "version": VERSION, "source": source, "code": code}


class InputWriter:
    """Writes the changes of a run, each at once; the file is made with the first one.

    Args:
        path: The file, which must not be there.
        head: Its first line, as `head_of` gives it.
        before: What is there and is continued; None for a new file.

    Attributes:
        path: As the argument.
        written: How many changes were written.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], before: InputRecord | None) -> None:
        self.path, self._head, self._before = path, head, before
        self._file: int | None = None
        self.written = 0

    def add(self, change: InputChange) -> None:
        """Write a change, so that it outlives this process and the machine.

        Raises:
            DatasetError: The disk refuses.
        """
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            _write(self._file, vars(change))
            flush_open(self._file, self.path)
        except OSError as error:
            raise DatasetError(f"the input cannot be recorded in {self.path}: {error.strerror or error}") from error
        self.written += 1

    def _open(self) -> None:
        if self._before is not None:
            self._file = open_regular(self.path, os.O_WRONLY)
            os.truncate(self._file, self._before.size)
            os.lseek(self._file, 0, os.SEEK_END)
            return
        self._file = open_regular(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        _write(self._file, self._head)
        flush(self.path.parent)

    def close(self) -> None:
        """Close the file; calling it again does no harm."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write(file: int, line: Mapping[str, Any]) -> None:
    data = json.dumps(line, allow_nan=False).encode() + b"\n"
    while data:
        data = data[os.write(file, data) :]


def copy_record(record: InputRecord, head: Mapping[str, Any], path: Path) -> None:
    """Write the changes of a record next to the samples that were made by them once more.

    Raises:
        DatasetError: The disk refuses.
    """
    lines = [json.dumps(line, allow_nan=False) for line in (head, *map(vars, record.changes))]
    if path.exists():
        raise DatasetError(f"the inputs cannot be recorded in {path}, which is there already; name another file")
    try:
        write_atomically(path, "\n".join([*lines, ""]))
    except OSError as error:
        raise DatasetError(f"the inputs cannot be recorded in {path}: {error.strerror or error}") from error
