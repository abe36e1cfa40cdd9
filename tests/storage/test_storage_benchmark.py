"""The storage benchmark runs; its figures are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_section_gives_figures_for_every_row(disk):
    command = [ROOT / "benchmarks" / "storage.py", "--quick", "--folder", disk]
    command += ["--peers", "ChunkedH5py,Sqlite", "--only", "append,partition,shuffle,windows,cold,generate"]
    command += ["--json", disk / "report.json"]
    done = run_program(ROOT, *command)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "left out" in line] == []
    report = json.loads((disk / "report.json").read_text())
    for section in ("append 32", "append 1", "partition", "shuffle", "windows", "cold"):
        assert set(report[section]) == {"small", "medium", "large"}
        for rows in report[section].values():
            assert all(values and min(values) >= 0 for values in rows.values())
    assert report["generate"]["small"]["2 workers"][0] > 0
    assert sorted(path.name for path in disk.iterdir()) == ["report.json"]
