"""Workers as copies of this process: quick, and what makes environments need not be picklable."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable

from physgym.launch.base import Order
from physgym.launch.processes import ProcessHandle, ProcessLauncher
from physgym.worker.main import run


class ForkLauncher(ProcessLauncher):
    """Forks this process for each worker."""

    def begin(self, order: Order) -> ProcessHandle:
        """Fork this process."""
        memory = -1 if order.memory is None else order.memory
        parent_pipe = order.parent_pipe
        assert parent_pipe is not None

        def work() -> None:  # what is forked lets go of the connections of this process, see `physgym.vector.fleet`
            run(order.worker_start, lambda: order.factories, parent_pipe.read, order.sock, memory, order.trial)

        return _Forked(work, order.worker_start.mark)


class _Forked(ProcessHandle):
    def __init__(self, run: Callable[[], None], mark: str) -> None:
        _flush_output()
        self._status: int | None = None
        pid = os.fork()
        if pid == 0:
            _child(run)
        super().__init__(pid, mark)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                self._status = -signal.SIGKILL
            else:
                if pid:
                    self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there may be none, or its reader be gone
            stream.flush()


def _child(run: Callable[[], None]) -> None:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        traceback.print_exc()
    finally:
        _flush_output()
        os._exit(status)
