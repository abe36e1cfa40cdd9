"""Workers that somebody else starts, and that dial to their parent: a process that takes orders out of a folder.

A cluster would do the same, on other machines; here the process runs on this one, and its workers are no children of
whoever orders them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from physgym.files import write_atomically
from physgym.launch.base import Launcher, Order, WorkerHandle
from physgym.launch.pickling import payload
from physgym.worker.main import join_parent

LOOK = 0.02  # seconds between looks into the folder


class Ordered(WorkerHandle):
    """A worker that was ordered; whether it runs is known to who starts it alone."""

    knows_end = False

    def __init__(self, order: Path) -> None:
        self.order = order

    def poll(self) -> None:
        return None


class DialIn(Launcher[Ordered]):
    """Writes orders for workers into a folder, where somebody else finds them.

    Args:
        folder: Which one; nobody else can write into it.
    """

    inherits = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def start(self, order: Order) -> Ordered:
        file = self._folder / f"{os.getpid()}-{next(self._numbers)}.order"
        write_atomically(file, payload(order))
        return Ordered(file)

    def end(self, handles: Sequence[Ordered], patience: float, hang_up: Callable[[], None] = lambda: None) -> None:
        for handle in handles:
            handle.order.unlink(missing_ok=True)
        hang_up()


def started_and_running(order: Path) -> bool:
    """Return whether the worker of an order runs, or may still be started."""
    return order.exists() or (order.with_suffix(".started").exists() and not order.with_suffix(".ended").exists())


@contextlib.contextmanager
def host(folder: Path) -> Iterator[Path]:
    """Run the process that starts workers, for the time of the block; give its folder."""
    process = subprocess.Popen([sys.executable, "-m", "tests.support.dialling", str(folder)], stdin=subprocess.PIPE)
    try:
        yield folder
    finally:
        process.communicate(timeout=60)


def serve(folder: Path) -> None:
    """Start a worker for each order, until standard input is closed; then end them."""
    workers: dict[int, Path] = {}
    os.set_blocking(0, False)
    while not _closed():
        for order in sorted(folder.glob("*.order")):
            started = order.with_suffix(".started")
            with contextlib.suppress(FileNotFoundError):  # taken back
                order.rename(started)
                workers[_fork(started.read_bytes())] = order
        _reap(workers)
        time.sleep(LOOK)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def _closed() -> bool:
    try:
        return os.read(0, 1) == b""
    except BlockingIOError:
        return False


def _reap(workers: dict[int, Path]) -> None:
    for pid in [*workers]:
        if os.waitpid(pid, os.WNOHANG)[0]:
            workers.pop(pid).with_suffix(".ended").touch()


def _fork(order: bytes) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        join_parent(order)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run here
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
