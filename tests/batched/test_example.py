"""The example trains."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "batched.py"


@pytest.mark.slow
def test_the_example_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["batched.py", "--plates", "4", "--size", "8", "--epochs", "1"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "'epoch': 1" in capsys.readouterr().out


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
