"""Every test runs in a temporary folder of its own and must leave no process behind."""

from __future__ import annotations

import os
import time

import psutil
import pytest

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def no_process_left():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    yield
    deadline = time.monotonic() + 3
    while left := [p for p in psutil.Process().children(recursive=True) if p.pid not in before]:
        if time.monotonic() > deadline:
            commands = [" ".join(p.cmdline()) for p in left]
            for process in left:
                process.kill()
            pytest.fail(f"the test left processes behind: {commands}")
        time.sleep(0.05)
