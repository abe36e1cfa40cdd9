from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import run_program

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_learning_overlaps_with_simulating():
    done = run_program(EXAMPLES, EXAMPLES / "overlap.py")
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 3
    assert losses[-1] < 0.2  # a network that learns nothing is at about 1


@pytest.mark.slow
def test_cars_drive_in_simulators_that_are_lent(tmp_path):
    done = run_program(tmp_path, EXAMPLES / "lent_simulators.py", "30")
    assert done.returncode == 0, done.stderr
    driven = [float(way) for way in re.search(r"driven: \[(.*)\]", done.stdout)[1].split()]
    assert len(driven) == 2
    assert min(driven) > 0


@pytest.mark.slow
def test_an_agent_drives_that_has_learned_from_recordings_alone(tmp_path):
    done = run_program(tmp_path, EXAMPLES / "from_recordings.py", "1200")
    assert done.returncode == 0, done.stderr
    driven = float(re.search(r"episodes of .*distance (\d+\.?\d*)", done.stdout)[1])
    assert driven > 60  # one that has learned nothing gets nowhere
