"""Memory that was freed is used again, instead of being cleared by the system each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ROUNDS, BLOCKS = 20, 10  # of 2 MB
SCRIPT = f"""
import resource, sys
import numpy as np
from physgym.system.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def take():
    blocks = [np.ones(1 << 18) for _ in range({BLOCKS})]
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], env=env, check=True, capture_output=True, timeout=120)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have rules of their own")
def test_memory_that_was_freed_is_not_new_again():
    kept, usual = faults("kept"), faults("usual")
    assert kept < usual / 10
