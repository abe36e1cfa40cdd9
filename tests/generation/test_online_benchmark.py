"""The benchmark of online training against offline: a quick run of it, and names that it does not know."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "online.py"
ONLINE = ("fifo", "firo", "reservoir")


@pytest.mark.slow
def test_the_benchmark_runs_and_stores_its_figures(tmp_path):
    done = run_program(ROOT, SCRIPT, "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "online-quick.json").read_text())
    names = {"equal steps": [*ONLINE, "reservoir, slow", "offline, 5"], "equal time": [*ONLINE, "offline, 5"]}
    wanted = [(case, name) for case in names for name in names[case]]
    assert [(row["case"], row["network"]) for row in stored["rows"]] == wanted
    assert all(row["error"] > 0 and row["steps"] > 0 and row["seed"] == 0 for row in stored["rows"])
    commands = [f"python benchmarks/online.py --only {what} --seeds 0 --quick" for what in ("steps", "time")]
    assert [record["command"] for record in stored["records"]] == commands
    tables = done.stdout.partition("equal steps, mean")[2]
    for name in ONLINE:
        assert len(re.findall(rf"^{name} +[\d.e+-]+ +\d", tables, re.MULTILINE)) == 2
    for name in ("reservoir, slow", "offline, 5"):
        assert re.search(rf"^{name} +[\d.e+-]+ +\d", tables, re.MULTILINE)


@pytest.mark.slow
def test_a_training_that_is_unknown_is_named_before_any_runs(tmp_path):
    done = run_program(ROOT, SCRIPT, "--trainings", "reservoir, slow", "--results", tmp_path)
    assert done.returncode == 2
    assert "equal time has no training 'reservoir, slow'; it has 'fifo', 'firo', 'reservoir', " in done.stderr
    assert not list(tmp_path.iterdir())
