"""The benchmark of training runs; its figures are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_way_gives_figures(tmp_path):
    command = [ROOT / "benchmarks" / "training.py", "--quick", "--folder", tmp_path]
    command += ["--no-peers", "--json", tmp_path / "report.json"]
    done = run_program(ROOT, *command)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 5
    memory = report.pop("memory")
    assert all(value > 0 for value in memory.values())
    for ways in report.values():
        assert len(ways) == 5
        assert all(cost["clock"] > 0 and cost["processor"] > 0 for costs in ways.values() for cost in costs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_small_without_one(tmp_path):
    command = [ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--json", tmp_path / "report.json"]
    done = run_program(ROOT, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report) == {"torch", "device", "training", "precision", "prediction", "environment"}
    assert len(report["training"]) == 4 * 3 * 2
    assert all(rate > 0 for rates in report["training"].values() for rate in rates.values())
