"""The benchmark of agents runs, tiny; its figures are not looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "agents.py"
TASKS = ["cartpole", "track-sac"]


def run(*arguments):
    done = run_program(ROOT, SCRIPT, "--quick", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_runs_are_judged_and_drawn_and_left_alone_once_they_are_done(tmp_path):
    folder, report = tmp_path / "runs", tmp_path / "report.json"
    arguments = ["--learn", *TASKS, "--seeds", "3", "--folder", folder, "--json", report]
    said = run(*arguments, "--draw", tmp_path / "curves.png")
    runs = json.loads(report.read_text())["runs"]
    assert set(runs) == {f"{task}-{way}-3" for task in TASKS for way in ("physgym", "sb3")}
    for one in runs.values():
        assert one["done"]
        assert [point["steps"] for point in one["points"]] == [600]
        assert one["final"]["episodes"] == 2
        assert 0 < one["seconds"] == pytest.approx(one["final"]["seconds"], abs=0.01)
        assert ("laps" in one["final"]) is (one["task"] == "track-sac")
    assert said.count("(last)") == 4
    assert (tmp_path / "curves.png").stat().st_size > 1000
    before = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    assert "(last)" not in run(*arguments)
    assert {file.name: file.read_bytes() for file in folder.glob("*.json")} == before


@pytest.mark.slow
def test_every_way_has_a_speed(tmp_path):
    said = run("--speed", "--works", "CartPole", "--folder", tmp_path / "none", "--json", tmp_path / "report.json")
    speed = json.loads((tmp_path / "report.json").read_text())["speed"]
    assert len(speed) == 2
    for rows in speed.values():
        for way, figures in rows.items():
            assert figures[0]["steps_per_second"] > 0, way
            assert 0 < figures[0]["learning"] < 1
            assert way in said
