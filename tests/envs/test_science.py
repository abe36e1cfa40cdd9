"""The yardsticks run, tiny; their figures are not looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "science.py"


def run(*arguments):
    return run_program(ROOT, SCRIPT, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "cases", "baselines", "samples"),
    [
        (
            "burgers",
            ["viscosity 0.1", "viscosity 0.01"],
            ["mean of the initial field", "linear"],
            {"Burgers-v0-size32-viscosity0.1", "Burgers-v0-size32-viscosity0.01"},
        ),
        ("beam", ["beam"], ["rest", "linear"], {"Beam-v0"}),
    ],
)
def test_every_row_has_its_figures(tmp_path, part, cases, baselines, samples):
    report, folder = tmp_path / "report.json", tmp_path / "data"
    done = run(part, "--quick", "--json", report, "--folder", folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text())[part]
    for case in cases:
        found = {row["network"]: row for row in rows if row["case"].endswith(case)}
        assert set(found) > set(baselines)
        for name, row in found.items():
            assert row["worst"] >= row["relative_l2"] > 0
            assert math.isfinite(row["worst"])
            assert f"{row['case']:<26}{name:<28}{row['relative_l2']:>13.4f}" in done.stdout
            assert ("seconds" in row) is (name not in baselines)
    assert {path.name.split("-train")[0] for path in folder.glob("*-train-*")} == samples


@pytest.mark.slow
def test_samples_that_are_there_are_taken_and_networks_chosen(tmp_path):
    arguments = ("beam", "--quick", "--folder", tmp_path, "--networks", "MLP")
    figures, written = [], []
    for _ in range(2):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        figures.append([line.split()[:3] for line in done.stdout.splitlines() if line.startswith("beam")])
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")})
    assert [name for _, name, _ in figures[0]] == ["rest", "linear", "MLP"]
    assert figures[0] == figures[1]
    assert len(written[0]) == 2
    assert written[0] == written[1]


@pytest.mark.slow
def test_an_unknown_part_is_named():
    done = run("burger")
    assert done.returncode == 2
    assert "there is no part 'burger'; there are burgers, beam" in done.stderr
