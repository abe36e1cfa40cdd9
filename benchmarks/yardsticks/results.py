"""Stored figures: a file for each problem and budget, with the record of what made them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import physgym
from physgym.git import commit_around

FOLDER = Path(__file__).resolve().parents[1] / "science_results"
Row = dict[str, Any]


class Results:
    """The rows of a problem at a budget in a file, which holds each of them from the moment it is measured.

    A row replaces that of the same case, network and seed; rows of earlier runs stay, each with its record.

    Args:
        folder: Where the file is, or will be.
        problem: Name of the problem.
        budget: Name of the budget.
    """

    def __init__(self, folder: Path, problem: str, budget: str) -> None:
        self._path = folder / f"{problem}-{budget}.json"
        self.problem, self.budget = problem, budget
        self.records: list[dict[str, Any]] = []
        self.rows: list[Row] = []
        if self._path.exists():
            stored = json.loads(self._path.read_text())
            self.records, self.rows = stored["records"], stored["rows"]

    def begin(self, command: str) -> None:
        """Record what makes the rows that are put from now on."""
        commit, changed = commit_around(Path(__file__).resolve().parent)
        versions = {"python": platform.python_version(), "physgym": physgym.__version__}
        record = {
            "command": command,
            "commit": commit,
            "changed": changed,
            "versions": {**versions, "torch": torch.__version__, "numpy": np.__version__},
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        }
        if record not in self.records:
            self.records.append(record)
        self._record = self.records.index(record)

    def put(self, row: Row) -> None:
        """Store a row, which has a ``case``, a ``network`` and a ``seed``, None for what has none."""
        key = [row[name] for name in ("case", "network", "seed")]
        self.rows = [other for other in self.rows if [other[name] for name in ("case", "network", "seed")] != key]
        self.rows.append({**row, "record": self._record})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        said = {"problem": self.problem, "budget": self.budget, "records": self.records, "rows": self.rows}
        written = self._path.with_suffix(".tmp")
        written.write_text(json.dumps(said, indent=1) + "\n")
        written.replace(self._path)
