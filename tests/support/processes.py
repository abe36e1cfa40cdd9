"""Processes below the one that runs tests."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

# Python's resource tracker and its fork server belong to the process of tests and live as long as it, as does ours
SERVERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "tests.support.commands")
KERNEL_KNOWS = Path(f"/proc/self/task/{os.getpid()}/children").exists()  # by kernels with CONFIG_PROC_CHILDREN


def pids_below(pid: int) -> set[int]:
    """Return the processes below one, zombies included.

    The kernel knows the children of each thread; psutil reads all processes of the machine, which takes milliseconds
    before and after each of thousands of tests.
    """
    if not KERNEL_KNOWS:
        return {process.pid for process in psutil.Process(pid).children(recursive=True)}
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            for thread in Path(f"/proc/{waiting.pop()}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    new = {*map(int, (thread / "children").read_text().split())} - found
                    found |= new
                    waiting += new
    return found


def commands_of(pids: set[int]) -> dict[int, str]:
    """Return the command lines of the processes that are there, without those of servers of tests."""
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(psutil.Process(pid).cmdline())
            if not any(server in command for server in SERVERS):
                found[pid] = command
    return found


def has_ended(pid: int) -> bool:
    """Return whether a process has ended; who takes its parent's place may read its status late, or never."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def not_ended(pids: Iterable[int], seconds: float = 30.0) -> list[int]:
    """Wait until processes have ended; return those that have not within some time, and kill them."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if not has_ended(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return left
        time.sleep(0.01)
    return []


def children() -> dict[int, str]:
    """Return the command lines of the processes below this one, without those of servers of tests."""
    return commands_of(pids_below(os.getpid()))
