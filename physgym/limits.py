"""Defaults of limits that episodes, workers and files share."""

from __future__ import annotations

MAX_STEPS = 1000  # of an episode
MAX_REJECTS = 10  # rejected steps in a row
TIMEOUT = 120.0  # seconds to wait for a worker
MAX_FILE_SIZE = 1 << 30  # bytes of a partition
