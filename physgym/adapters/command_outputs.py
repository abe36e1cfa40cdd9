"""Numbers in the files that a program writes: a table, matches of a pattern, a value of JSON, an array of NumPy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from physgym.checks import integer, integer_list
from physgym.errors import ConfigError, SimulatorError
from physgym.spaces import Array

OutputReader = Callable[[Path], Any]
SECOND = 1_000_000_000  # ns
OF_FIELD = ("shape", "unit", "dtype", "initial")  # entries of an output that are none of its reader


def output_reader(name: str, declared: Mapping[str, Any]) -> OutputReader:
    """Return what reads an output from a working folder.

    Args:
        name: Of the output.
        declared: ``read`` is one of the names of `READERS` or a function of the folder; the other entries are arguments
            of the reader.

    Raises:
        ConfigError: There is no such reader, or its arguments are wrong.
    """
    arguments = {key: value for key, value in declared.items() if key not in (*OF_FIELD, "read")}
    read: Any = declared.get("read")
    if callable(read):
        if arguments:
            raise ConfigError(f"outputs[{name!r}]: a function reads it, which takes no {sorted(arguments)}")
        return cast(OutputReader, read)
    if not isinstance(read, str) or read not in READERS:
        raise ConfigError(
            f"outputs[{name!r}]: read must be one of {', '.join(READERS)}, or a function of the folder, not {read!r}"
        )
    file = arguments.get("file")
    if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
        raise ConfigError(f"outputs[{name!r}]: file must be a name in the working folder, not {file!r}")
    try:
        return READERS[read](**arguments)
    except (TypeError, ConfigError, re.error) as error:
        raise ConfigError(f"outputs[{name!r}]: {error}") from error


def read_table(
    file: str, *, columns: int | list[int] | None = None, after: str = "", skip: int = 0, delimiter: str | None = None
) -> OutputReader:
    """Return a reader of a table of numbers: the lines up to the first that is blank or begins with no number.

    Args:
        file: In the working folder.
        columns: Which columns, from 0; all by default.
        after: A pattern; the table begins after the last line in which it is found, blank lines left out.
        skip: Further lines to leave out.
        delimiter: Between two numbers; by default blanks.
    """
    pattern = re.compile(after)
    skip = integer("skip", skip, 0)
    places = None if columns is None else integer_list("columns", columns, 0)

    def read(folder: Path) -> Array:
        lines = _text(folder / file).splitlines()
        if after:
            found = [number for number, line in enumerate(lines, 1) if pattern.search(line)]
            if not found:
                raise SimulatorError(f"no line of {file} has {after!r}, after which the table is to begin")
            lines = lines[found[-1] :]
            while lines and not lines[0].strip():
                lines.pop(0)
        rows: list[list[float]] = []
        width = 0
        for line in lines[skip:]:
            cells = [cell.strip() for cell in line.split(delimiter)]
            if not cells or _is_text(cells[0]):
                break
            if rows and len(cells) != width:
                raise SimulatorError(f"{file}: {line.strip()!r} has {len(cells)} values, the line before {width}")
            width = len(cells)
            chosen = range(width) if places is None else places
            if max(chosen, default=0) >= width:
                raise SimulatorError(f"{file}: {line.strip()!r} has no column {max(chosen)}; the first is 0")
            rows.append([number_in(cells[place], file) for place in chosen])
        return np.array(rows, np.float64)

    return read


def read_matches(file: str, *, pattern: str, which: str = "last") -> OutputReader:
    """Return a reader of the numbers that the groups of a pattern match.

    Args:
        file: In the working folder; "stdout" and "stderr" are what the program printed.
        pattern: A regular expression with a group for each number.
        which: "first", "last" or "all" matches.
    """
    compiled = re.compile(pattern, re.MULTILINE)
    if not compiled.groups:
        raise ConfigError(f"pattern {pattern!r} has no group (...) around a number")
    if which not in ("first", "last", "all"):
        raise ConfigError(f'which must be "first", "last" or "all", not {which!r}')

    def read(folder: Path) -> Array:
        found = [match.groups() for match in compiled.finditer(_text(folder / file))]
        if not found:
            raise SimulatorError(f"nothing in {file} matches {pattern!r}")
        chosen = {"first": found[:1], "last": found[-1:], "all": found}[which]
        return np.array([[number_in(text or "", file) for text in groups] for groups in chosen], np.float64)

    return read


def read_json(file: str, *, key: str = "") -> OutputReader:
    """Return a reader of a number, or of nested lists of numbers, in a JSON file.

    Args:
        file: In the working folder.
        key: Names of nested objects, and places in lists, with points between; the whole file by default.
    """

    def read(folder: Path) -> Array:
        try:
            value = json.loads(_text(folder / file))
            for name in filter(None, key.split(".")):
                value = value[int(name)] if isinstance(value, list) else value[name]
            array: Array = np.asarray(value)
            if array.dtype.kind in "US":
                raise ValueError("it is a text")
            return array.astype(np.float64) if array.dtype == object else array  # null is nan
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise SimulatorError(f"{file} has no numbers at {key!r}: {error!r}") from error

    return read


def read_npy(file: str) -> OutputReader:
    """Return a reader of an array that NumPy has saved.

    Args:
        file: In the working folder.
    """

    def read(folder: Path) -> Array:
        try:
            loaded: Array = np.load(folder / file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SimulatorError(f"{file} cannot be read as an array of NumPy: {error}") from error
        return loaded

    return read


READERS: Mapping[str, Callable[..., OutputReader]] = {
    "table": read_table,
    "match": read_matches,
    "json": read_json,
    "npy": read_npy,
}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise SimulatorError(f"{path.name} cannot be read: {error.strerror}") from error


def _is_text(cell: str) -> bool:
    try:
        float(_in_python(cell))
    except ValueError:
        return True
    return False


def number_in(cell: str, file: str) -> float:
    """Return the number that a text stands for; Fortran's forms of exponents are accepted.

    Args:
        cell: The text.
        file: Where it stands, for errors.

    Raises:
        SimulatorError: It is no number.
    """
    try:
        return float(_in_python(cell))
    except ValueError:
        raise SimulatorError(f"{file} has {cell!r} where a number is to be") from None


def _in_python(cell: str) -> str:
    """Return a number as Python writes it: Fortran has D for E, and leaves it out before exponents of three digits."""
    text = cell.strip().upper().replace("D", "E").replace("_", " ")  # which Python takes for part of a number
    return re.sub(r"(?<=[\d.])([+-]\d{3})$", r"E\1", text) if "E" not in text else text


class WrittenFiles:
    """The files from which outputs are read, as they were before a run.

    Args:
        folder: The working folder.
        files: Names of the files in it.
    """

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        self._folder = folder
        self._before: dict[str, tuple[int, ...]] = {}
        for name in files:
            path = folder / name
            if path.is_file():
                was = path.stat()
                os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns - SECOND))  # clocks of file systems are coarse
                self._before[name] = _stamp(path)

    def check(self) -> None:
        """Raise SimulatorError where the run has left one of the files as it was: its values are of an earlier run."""
        for name, before in self._before.items():
            path = self._folder / name
            if path.is_file() and _stamp(path) == before:
                raise SimulatorError(
                    f"the run did not write {name}: what is in it is of the case, or of the step before. Leave results "
                    "out of the case; for a file that is to stay as it is, read is a function of the folder"
                )


def _stamp(path: Path) -> tuple[int, ...]:
    now = path.stat()
    return now.st_ino, now.st_size, now.st_mtime_ns
