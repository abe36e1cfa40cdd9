"""The benchmark of training runs; its figures are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_way_gives_figures(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--quick", "--folder", str(tmp_path)]
    command += ["--no-peers", "--json", str(tmp_path / "report.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 5
    memory = report.pop("memory")
    assert all(value > 0 for value in memory.values())
    for ways in report.values():
        assert len(ways) == 5
        assert all(cost["clock"] > 0 and cost["processor"] > 0 for costs in ways.values() for cost in costs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]
