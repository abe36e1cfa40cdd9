"""Figures beside those that are wanted, as lines of a file that several benchmarks write and `wanted.py` reads."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class WantedRow:
    """A measured figure and the one that is wanted.

    Args:
        row: What was measured, its parts divided by "/": "stepping/CartPole/default".
        value: The figure of this run.
        wanted: The figure to reach.
        unit: In which it is counted, or of which it is a part: "of SyncVectorEnv", "ms".
        better: Whether "more" or "less" is better.
        beside: What was measured in the same run to compare with, with versions: {"SyncVectorEnv 1.3": 141000.0}.
    """

    row: str
    value: float
    wanted: float
    unit: str
    better: Literal["more", "less"] = "more"
    beside: dict[str, float] | None = None

    @property
    def reached(self) -> bool:
        """Tell if the figure is at least as good as the wanted one."""
        return self.value >= self.wanted if self.better == "more" else self.value <= self.wanted

    @property
    def missing(self) -> float:
        """Return the part of the wanted figure that is missing: 0 where it is reached."""
        if self.reached:
            return 0.0
        short, full = (self.value, self.wanted) if self.better == "more" else (self.wanted, self.value)
        return 1 - short / full if full else 1.0


def add_rows_option(parser: ArgumentParser) -> None:
    """Add the option by which a benchmark measures its rows alone and writes them."""
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="measure the rows with wanted figures alone, and append them to FILE"
    )


def write_rows(file: Path, rows: Iterable[WantedRow]) -> None:
    """Append rows to a file, one JSON object a line."""
    with file.open("a") as out:
        for row in rows:
            out.write(json.dumps(asdict(row)) + "\n")


def read_rows(file: Path) -> list[WantedRow]:
    """Return the rows of a file."""
    return [WantedRow(**json.loads(line)) for line in file.read_text().splitlines()]


def table(rows: Iterable[WantedRow]) -> str:
    """Return a table of rows: what was measured, the figure, the wanted one, and by how much it falls short."""
    lines = [("what", "measured", "wanted", "falls short by", "beside")]
    for row in rows:
        beside = ", ".join(f"{name}: {value:,.4g}" for name, value in (row.beside or {}).items())
        short = "" if row.reached else f"{row.missing:.0%}"
        sign = "" if row.better == "more" else "at most "
        lines.append((row.row, f"{row.value:,.4g} {row.unit}", f"{sign}{row.wanted:,.4g}", short, beside))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
