"""Workers as forks of multiprocessing's server process, which has imported their modules once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from physgym.launch.base import Order
from physgym.launch.pickling import payload
from physgym.launch.processes import ProcessHandle, ProcessLauncher
from physgym.system.descriptors import above_standard
from physgym.worker.main import served


class ForkServerLauncher(ProcessLauncher):
    """Has the fork server fork itself for each worker."""

    def begin(self, order: Order) -> ProcessHandle:
        """Ask the server for a fork."""
        sock = -1 if order.sock is None else order.sock.fileno()
        memory = -1 if order.memory is None else order.memory
        trial = -1 if order.trial is None else order.trial.fileno()
        assert order.parent_pipe is not None
        files = _Files(multiprocessing.reduction.DupFd, order.parent_pipe.read, sock, memory, trial)
        return _Served((payload(order), files), order.worker_start.mark)


class _Served(ProcessHandle):
    def __init__(self, arguments: tuple[Any, ...], mark: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["physgym.worker.main"])
        self._process = context.Process(target=served, args=arguments, daemon=True)
        with _importable_main():
            self._process.start()
        # else every fork of this process would end it when it exits
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
        assert self._process.pid is not None
        super().__init__(self._process.pid, mark)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@contextlib.contextmanager
def _importable_main() -> Iterator[None]:
    """Keep multiprocessing from looking for the file of a program that has none, such as one from stdin."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or Path(file).exists():
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


class _Files:
    """Descriptors that multiprocessing passes on when it starts a process."""

    def __init__(self, pass_on: Any, *files: int) -> None:
        self._pass_on, self._files = pass_on, files

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, tuple(None if file < 0 else self._pass_on(file) for file in self._files)


def _received(*files: Any) -> tuple[int, ...]:
    return tuple(-1 if file is None else above_standard(file.detach()) for file in files)
