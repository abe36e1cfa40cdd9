"""Worker processes of this machine: what their launchers have in common, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence

from physgym.launch.base import Launcher, Order, WorkerHandle, no_descriptors
from physgym.system import process_tree as tree
from physgym.system.process_tree import Tree


class ProcessHandle(WorkerHandle):
    """A child process.

    Args:
        pid: Its number.
        mark: Of its tree of processes.

    Attributes:
        tree: It and all that it has started.
    """

    pid: int

    def __init__(self, pid: int, mark: str) -> None:
        self.pid = pid
        self.tree = Tree(tree.look(pid), mark)

    @abstractmethod
    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""

    @abstractmethod
    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""


class ProcessLauncher(Launcher[ProcessHandle]):
    """Starts workers as child processes."""

    def start(self, order: Order) -> ProcessHandle:
        """Start a worker, as `Launcher.start` says."""
        try:
            handle = self.begin(order)
        except OSError as error:
            raise no_descriptors(order.worker_start.worker, error) from error
        assert order.parent_pipe is not None
        order.parent_pipe.bind(handle.pid)
        return handle

    @abstractmethod
    def begin(self, order: Order) -> ProcessHandle:
        """Start the process.

        Raises:
            OSError: The system refuses.
        """

    def end(
        self, handles: Sequence[ProcessHandle], patience: float, hang_up: Callable[[], None] = lambda: None
    ) -> None:
        """End workers, as `Launcher.end` says."""
        # while they live: afterwards some of what they have started may not be found any more
        known = tree.members([handle.tree for handle in handles]) if handles and patience else []
        hang_up()
        if not handles:
            return
        _await(handles, patience)
        tree.end([handle.tree for handle in handles], whole=True, known=known)
        for handle in handles:
            if handle.poll() is None:
                handle.signal(signal.SIGKILL)
        _await(handles, 1.0)
        if sys.platform != "linux":
            for handle in handles:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(handle.pid, signal.SIGKILL)


def _await(handles: Sequence[ProcessHandle], patience: float) -> None:
    deadline, pause = time.monotonic() + patience, 0.0005
    while any(handle.poll() is None for handle in handles) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def exit_text(status: int | None) -> str:
    """Return an exit status in words."""
    if status is None:
        return "closed its connection"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
