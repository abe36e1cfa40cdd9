"""Processes that a test has left, found by a mark in their environment."""

from __future__ import annotations

import os
import secrets
import time
from multiprocessing import resource_tracker

import psutil
import pytest

MARK = "PHYSGYM_KILLED"


def marked(mark: str) -> list[int]:
    """Processes that have the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture
def nothing_left(monkeypatch):
    """No process of the test is left, also not one whose parent is gone."""
    resource_tracker.ensure_running()  # it lives as long as the tests, and has the environment of when it started
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK, mark)
    yield
    deadline = time.monotonic() + 7  # less than what they would take to end by themselves
    while (left := set(marked(mark)) - {os.getpid()}) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, 9)
    assert not left
