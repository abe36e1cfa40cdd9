"""The examples of agents are short, and run at a small size."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["dqn_cartpole", "dqn_track"])
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dqn_cartpole", ["--steps", "1200", "--episodes", "2"]),
        ("dqn_track", ["--steps", "1100"]),
        ("dqn_track", ["--steps", "1016", "--pixels", "--workers", "1"]),
    ],
)
def test_an_example_runs(name, words, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    session = tmp_path / "session"
    monkeypatch.setattr(sys, "argv", [name, *words, "--session", str(session)])
    module.main()
    assert "episodes of" in capsys.readouterr().out
    assert list((session / "networks").glob("*/manifest.json"))
