"""The processor's cores: how many this process may use, and the variables that keep a library to some of them."""

from __future__ import annotations

import os

# of the libraries below numpy and torch, which read them when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Linux alone has it, and a sandbox may forbid it
        return os.cpu_count() or 1
