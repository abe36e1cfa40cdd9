"""Trees of processes: what a process has started, directly or not, also in sessions of their own, found and ended.

A process belongs to a tree whose root is one of ours

- if its parent does;
- if it is in the session or in the group of one that does;
- if the mark of the tree stands in its environment, which it has from its parent. A process that was given
  another environment, left the session, and whose parent has ended, is not found.

This needs Linux's ``/proc``; elsewhere nothing is found. The file uses the standard library alone, since it is also a
program of its own: the guard of a tree, which ends it when the process at the other end of a pipe is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "PHYSGYM_TREE"  # variable with the marks of the trees to which a process belongs
PATIENCE = 1.0  # seconds until all of a tree must have ended: a process that the kernel holds cannot be waited for
PAUSE = 0.002
GLANCE = 0.25  # seconds between looks of a guard, which remembers what it saw
PROC = "/proc"


def new_mark() -> str:
    """Return a mark that no other tree has."""
    return secrets.token_hex(12)


def marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """Return variables with a mark added to those that are there: a tree may grow within a tree."""
    marks = [found for found in environment.get(MARK, "").split(":") if found]
    return {**environment, MARK: ":".join([*(found for found in marks if found != mark), mark])}


@dataclass(frozen=True)
class Process:
    """A process as the kernel knows it.

    Attributes:
        pid: Its number, which may be given away again after its end.
        parent: Number of its parent.
        group: Number of its group.
        session: Number of its session.
        start: When it was started, in ticks since the machine was: with `pid` a name that nobody else gets.
        dead: Whether it has ended, and is only waited for.
    """

    pid: int
    parent: int
    group: int
    session: int
    start: int
    dead: bool


def look(pid: int) -> Process | None:
    """Return what the kernel knows of a process, None where there is none."""
    try:
        with open(f"{PROC}/{pid}/stat", "rb") as file:  # noqa: PTH123 - read for every process of the machine
            text = file.read()
    except OSError:
        return None
    # the name of the program stands in parentheses, and may hold anything
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


@dataclass(frozen=True)
class Tree:
    """A process with all that it has started.

    Attributes:
        root: As `look` gave it while it lived; None where that is not known.
        mark: In the environment of its members; empty if there is none.
    """

    root: Process | None
    mark: str = ""


def members(trees: Collection[Tree]) -> list[Process]:
    """Return the living processes of trees, without the roots."""
    try:
        numbers = [int(entry.name) for entry in Path(PROC).iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    table = {process.pid: process for number in numbers if (process := look(number)) is not None}
    roots = [tree.root for tree in trees if tree.root is not None]
    marks = [tree.mark.encode() for tree in trees if tree.mark]
    known = {root.pid for root in roots}
    # where somebody else got the number of a root, its session is not ours either
    ours = {root.pid for root in roots if root.pid not in table or table[root.pid].start == root.start}
    kept = _forebears(table)
    found: dict[int, Process] = {
        pid: process for pid, process in table.items() if pid not in known and pid not in kept and _has_mark(pid, marks)
    }
    growing = True
    while growing:
        growing = False
        inside = ours | found.keys()
        for pid, process in table.items():
            if pid in found or pid in known or pid in kept:
                continue
            if process.parent in inside or process.session in inside or process.group in inside:
                found[pid] = process
                growing = True
    return [process for process in found.values() if not process.dead]


def _forebears(table: Mapping[int, Process]) -> set[int]:
    """Return the numbers of this process and of its ancestors, which are never ended."""
    pid, kept = os.getpid(), {0, 1}
    while pid not in kept:
        kept.add(pid)
        pid = table[pid].parent if pid in table else 0
    return kept


def _has_mark(pid: int, marks: Collection[bytes]) -> bool:
    if not marks:
        return False
    try:
        with open(f"{PROC}/{pid}/environ", "rb") as file:  # noqa: PTH123 - read for every process of the machine
            variables = file.read()
    except OSError:  # of another user, or gone
        return False
    name = f"{MARK}=".encode()
    if name not in variables:
        return False
    found = [entry for entry in variables.split(b"\0") if entry.startswith(name)]
    return any(mark in entry for mark in marks for entry in found)


def send(process: Process, number: int) -> None:
    """Send a signal to a process, and to no other that has got its number."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(process.pid)
        try:
            now = look(process.pid)
            if now is not None and now.start == process.start:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def end(trees: Collection[Tree], *, whole: bool = False, known: Collection[Process] = ()) -> None:
    """End what processes have started, at once.

    Args:
        trees: Of these processes.
        whole: Whether to end the roots too.
        known: Members that may not be found any more, since their parents have ended.
    """
    if sys.platform != "linux":
        return
    living = [tree.root for tree in trees if whole and tree.root is not None and tree.root.pid != os.getpid()]
    for root in living:
        send(root, signal.SIGSTOP)  # or it would start more meanwhile
    deadline = time.monotonic() + PATIENCE
    found = members(trees)
    for process in {*living, *found, *known}:
        send(process, signal.SIGKILL)
    # what was started between the look and the end of its parent
    while found and time.monotonic() < deadline:
        time.sleep(PAUSE)
        for process in (found := members(trees)):
            send(process, signal.SIGKILL)


def guard(parent_pipe: int, tree: Tree) -> None:
    """Wait until a process, or the one at the other end of a pipe, is gone; then end the tree.

    Args:
        parent_pipe: Reading end of a pipe, which ends with the process that holds its other end.
        tree: Of the process.
    """
    assert tree.root is not None
    poll = select.poll()
    poll.register(parent_pipe, select.POLLIN)
    known: list[Process] = []
    with contextlib.suppress(OSError):
        poll.register(os.pidfd_open(tree.root.pid), select.POLLIN)
        while not poll.poll(GLANCE * 1000):
            known = [process for pid in descendants(tree.root.pid) if (process := look(pid)) is not None]
    end([tree], whole=True, known=known)


def descendants(pid: int) -> list[int]:
    """Return the numbers of the processes that a living process and its descendants have started, at little cost."""
    found, waiting = [], [pid]
    while waiting:
        with contextlib.suppress(OSError):  # gone, or a kernel that does not tell
            for file in Path(PROC, str(waiting.pop()), "task").glob("*/children"):
                children = [int(child) for child in file.read_text().split()]
                found += children
                waiting += children
    return found


def start_guard(parent_pipe: int, mark: str) -> None:
    """Start a guard of this process's tree; where that fails there is none.

    Args:
        parent_pipe: Reading end of a pipe, as of `guard`.
        mark: In the environment of what this process starts.
    """
    mine = look(os.getpid())
    if mine is None or sys.platform != "linux":
        return
    command = [sys.executable, "-I", "-S", __file__, *map(str, (parent_pipe, mine.pid, mine.start)), mark]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.Popen(
            command,
            env=marked(os.environ, mark),
            pass_fds=[parent_pipe],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).wait(PATIENCE)


def main() -> None:
    """Guard a tree; the arguments are the descriptor of the pipe, number and start of the root, and the mark."""
    parent_pipe, pid, start, mark = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # nobody's child, so that nobody who waits for children of its own meets it
    if os.fork():
        os._exit(0)
    root = look(pid)
    if root is not None and root.start == start:
        guard(parent_pipe, Tree(root, mark))
    os._exit(0)


if __name__ == "__main__":
    main()
