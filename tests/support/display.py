"""A display for real windows, in tests that open one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


@pytest.fixture
def display():
    """A display of its own, as text of DISPLAY."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed, so that there is no display to open a window on")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as said:
            number = said.readline().strip()
        assert number, "Xvfb does not start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(timeout=60)
