"""`CSVTable`: a CSV file to which rows are added, and columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from physgym.training.kept_file import KeptFile


@dataclass
class CSVTablePart:
    """The first rows of a table.

    Attributes:
        columns: Names of the columns of the table.
        rows: Number of the rows.
        first: Second cell of the first row, such as its time; empty without rows.
        end: Bytes of the file up to their end.
    """

    columns: list[str]
    rows: int = 0
    first: str = ""
    end: int = 0


class CSVTable:
    """CSV file to which rows are added; one that has new columns lets them join.

    Args:
        path: The file; must not be there yet, unless a part is given.
        what: What is written, for warnings.
        fixed: Columns that every row has, at the left.
        prefix: What the names of other columns begin with; it is not written.
        part: What the file has already.

    Raises:
        ConfigError: It cannot be made, or opened.
    """

    def __init__(self, path: Path, what: str, fixed: Sequence[str], prefix: str, part: CSVTablePart | None) -> None:
        self._fixed, self._prefix = tuple(fixed), prefix
        joined = [] if part is None else part.columns[len(fixed) :]
        self._joined = dict.fromkeys(f"{prefix}{name}" for name in joined)
        self._file = KeptFile(path, what, self._head(), None if part is None else part.rows)

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return self._file.records

    def _head(self) -> bytes:
        return csv_line([*self._fixed, *(name.removeprefix(self._prefix) for name in self._joined)])

    def add(self, fixed: Iterable[Any], numbers: Mapping[str, float] | None = None) -> None:
        """Add a row.

        Args:
            fixed: Its cells in the fixed columns.
            numbers: Those in other columns, by name.
        """
        numbers = numbers or {}
        if any(name not in self._joined for name in numbers):
            self._joined.update(dict.fromkeys(numbers))
            commas = len(self._fixed) + len(self._joined) - 1

            def widened(row: bytes) -> bytes:  # of numbers alone
                return row[:-1] + b"," * (commas - row.count(b",")) + b"\n"

            self._file.begin_with(self._head(), widened)
        self._file.write(csv_line([*fixed, *(numbers.get(name) for name in self._joined)]))

    def flush(self) -> None:
        """Let readers see the rows."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def csv_line(cells: Iterable[Any]) -> bytes:
    """Return cells as a line of CSV; None is an empty one."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="replace")


def read_table_part(path: Path, rows: int) -> CSVTablePart | None:
    """Return the first rows of a table, those that are there; None where there is no table.

    Args:
        path: The file.
        rows: How many at most.
    """
    try:
        with path.open("rb") as stream:
            return _read_table_part(stream, rows)
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _read_table_part(stream: BinaryIO, rows: int) -> CSVTablePart | None:
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for text in stream:
            if not text.endswith(b"\n"):
                return  # the machine has stopped in the midst of it
            end += len(text)
            yield text.decode()

    reader = csv.reader(lines())
    part = CSVTablePart(next(reader, []))
    if not part.columns or end != len(csv_line(part.columns)):  # somebody else's
        return None
    for _, cells in zip(range(rows), reader, strict=False):
        part.rows += 1
        part.first = part.first or "".join(cells[1:2])
    part.end = end
    return part
