"""Defaults of limits that episodes, workers and files share."""

from __future__ import annotations

MAX_STEPS = 1000  # of an episode
MAX_REJECTS = 10  # rejected steps in a row
TIMEOUT = 120.0  # seconds to wait for a worker
LARGER_TIMEOUT = (
    "timeout=600 in Python, --timeout 600 of physgym generate and run, or timeout: 600 in the section dataset, runner "
    "or agent of a configuration"
)  # how a user gives a larger one
MAX_FILE_SIZE = 1 << 30  # bytes of a partition
