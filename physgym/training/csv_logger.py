"""`CSV`: the logger whose curves any program reads."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from physgym.training.csv_table import CSVTable, CSVTablePart, read_table_part
from physgym.training.loggers import CurveAxis, CurvePoints, Logger, as_number, free_place, named_logger

# of each axis the name of the file, and the columns that it has from the first row on
FILES: dict[CurveAxis, tuple[str, tuple[str, ...]]] = {
    "batch": ("batches.csv", ("step", "time")),
    "epoch": ("epochs.csv", ("epoch", "time")),
    "own": ("scalars.csv", ("step", "time", "name", "value")),
}


@named_logger
class CSV(Logger):
    """Curves as tables: ``pandas.read_csv(folder / "epochs.csv")``.

    There are three files, as CSV with a line of names:

    - ``batches.csv`` has a row for each batch: its number ("step"), the time in seconds since 1970, and a column for
      each curve over batches, without ``batch/``;
    - ``epochs.csv`` has a row for each epoch;
    - ``scalars.csv`` has a row for each point of your own curves, see `add_scalar`: step, time, name and value.

    A curve that begins later joins as a column, which is empty in the rows before. Numbers are written with all their
    digits. A resumed training continues the files from where the checkpoint was saved. A new training in a folder that
    has some writes to a subfolder, ``run-2`` and so on. What cannot be written for a while, as on a full disk, is a
    warning; it is kept, and written later. Histograms, images, figures, texts, files and meshes are left
    out.

    Args:
        folder: Where to write; made if it is not there.
        histograms: Without effect.
        weights: Without effect.
        gradients: Without effect.
        charts: Without effect.
    """

    title: ClassVar[str] = "the curves as CSV"

    def __init__(
        self,
        folder: str | Path,
        *,
        histograms: bool = False,
        weights: int | None = None,
        gradients: int | None = None,
        charts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(folder, charts=charts)
        self._place = ""  # of the files, in the folder
        self._tables: dict[CurveAxis, CSVTable] = {}

    @classmethod
    def read(cls, folder: Path) -> CurvePoints:
        """Return the curves of the table over epochs."""
        file, columns = FILES["epoch"]
        curves: CurvePoints = {}
        try:
            with (folder / file).open(newline="", encoding="utf-8") as stream:
                names, *rows = [row for row in csv.reader(stream) if row] or [[]]
        except (OSError, UnicodeDecodeError, csv.Error):
            return {}
        for row in rows if tuple(names[: len(columns)]) == columns else ():
            for name, cell in zip(names[len(columns) :], row[len(columns) :], strict=False):
                with contextlib.suppress(ValueError):  # empty, or half a row
                    curves.setdefault(f"epoch/{name}", []).append((int(row[0]), float(cell)))
        return curves

    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Open the tables; those of a training that continues end with the checkpoint."""
        found = None if saved is None else self._found(saved)
        self._place = free_place(self.folder, FILES["batch"][0]) if saved is None or found is None else saved["place"]
        self._tables = {}
        for axis, (name, columns) in FILES.items():
            part = None if found is None else found[axis]
            self._tables[axis] = CSVTable(self.folder / self._place / name, self.title, columns, f"{axis}/", part)

    def write(self, values: Mapping[str, float], step: int, moment: float, axis: CurveAxis) -> None:
        """Write a row, or a row for each of the user's own curves."""
        numbers = {name: as_number(name, value) for name, value in values.items()}
        table = self._tables[axis]
        if axis == "own":
            for name, number in numbers.items():
                table.add((step, moment, name, number))
        else:
            table.add((step, moment), numbers)

    def flush(self) -> None:
        """Let readers see what was written."""
        for table in self._tables.values():
            table.flush()

    def position(self) -> dict[str, Any]:
        """Return the number of rows of each file, and the time of the first one, by which it is known again."""
        files = {}
        for axis, (name, _) in FILES.items():
            part = read_table_part(self.folder / self._place / name, 1)
            files[name] = {"rows": self._tables[axis].rows, "first": "" if part is None else part.first}
        return {"place": self._place, "files": files}

    def release(self) -> None:
        """Close the files."""
        for table in self._tables.values():
            table.close()

    def _found(self, saved: Mapping[str, Any]) -> dict[CurveAxis, CSVTablePart | None] | None:
        """Return what the files had at a position, and remove what follows; None where they are others."""
        folder = self.folder / saved["place"]
        found: dict[CurveAxis, CSVTablePart | None] = {}
        for axis, (name, columns) in FILES.items():
            rows, first = saved["files"][name]["rows"], saved["files"][name]["first"]
            part = read_table_part(folder / name, rows)
            if part is None and not rows and not (folder / name).exists():
                found[axis] = None  # somebody has deleted it, which had no rows
                continue
            if part is None or part.first != first or tuple(part.columns[: len(columns)]) != columns:
                return None
            found[axis] = part
        parts = [(folder / FILES[axis][0], part) for axis, part in found.items() if part is not None]
        if not any(part.first for _, part in parts):
            return None
        for path, part in parts:
            os.truncate(path, part.end)
        return found
