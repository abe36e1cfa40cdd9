from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_learning_overlaps_with_simulating():
    done = subprocess.run(
        [sys.executable, EXAMPLES / "overlap.py"], capture_output=True, text=True, timeout=100, check=True
    )
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 3
    assert losses[-1] < 0.2  # a network that learns nothing is at about 1
