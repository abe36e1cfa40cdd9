"""The benchmark of many partitions runs; its figures are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_gives_each_figure(disk):
    command = [ROOT / "benchmarks" / "partitions.py", "--quick", "--folder", disk, "--rows", disk / "rows"]
    done = run_program(ROOT, *command)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (disk / "rows").read_text().splitlines()]
    assert [row["row"].rpartition("/")[2] for row in rows] == ["open", "info", "memory", "rotation"]
    assert all(row["value"] > 0 for row in rows)
    assert [path.name for path in disk.iterdir()] == ["rows"]
