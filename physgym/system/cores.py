"""The processor's cores: how many this process may use, and the variables that keep a library to some of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal, TypeAlias

Pinning: TypeAlias = Literal["core", "node"]

NODES = Path("/sys/devices/system/node")  # Linux's memory nodes, with the cores near each
# of the libraries below numpy and torch, which read them when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # Linux alone has it, and a sandbox may forbid it
        return os.cpu_count() or 1


def can_pin() -> bool:
    """Return True where the system keeps a process on the cores that it is given, as Linux does."""
    return hasattr(os, "sched_setaffinity")


def pinned_cores(pinning: Pinning | None, index: int) -> list[int] | None:
    """Return the cores that one of several processes is to run on; None for all.

    Args:
        pinning: "core" for one each, taking turns; "node" for the cores of one memory node each; None for all.
        index: Which process.
    """
    if pinning is None:
        return None
    usable = sorted(os.sched_getaffinity(0))
    groups = [[core] for core in usable] if pinning == "core" else _by_node(usable)
    return groups[index % len(groups)]


def pin(cores: list[int] | None) -> None:
    """Have this process, and those that it starts, run on some cores alone, where the system allows it."""
    if cores is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def _by_node(usable: list[int]) -> list[list[int]]:
    """Return the usable cores of each memory node that has some; all of them together where nodes are not known."""
    found = []
    for file in sorted(NODES.glob("node[0-9]*/cpulist")):
        near = cores_of(file.read_text())
        if own := [core for core in usable if core in near]:
            found.append(own)
    return found or [usable]


def cores_of(text: str) -> set[int]:
    """Return the cores of a list such as "0-3,8"."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
