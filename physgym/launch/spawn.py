"""Workers as fresh interpreters: nothing of this process is in them, at the price of their imports."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from physgym.launch.base import Order
from physgym.launch.pickling import payload
from physgym.launch.processes import ProcessHandle, ProcessLauncher
from physgym.system import process_tree as tree
from physgym.system.cores import THREAD_VARIABLES
from physgym.system.shared_memory import make_file


class SpawnLauncher(ProcessLauncher):
    """Starts a fresh interpreter for each worker."""

    def begin(self, order: Order) -> ProcessHandle:
        """Start the interpreter."""
        sock = -1 if order.sock is None else order.sock.fileno()
        memory = -1 if order.memory is None else order.memory
        trial = -1 if order.trial is None else order.trial.fileno()
        assert order.parent_pipe is not None
        with _written(payload(order)) as file:
            return _Spawned([order.parent_pipe.read, sock, memory, trial, file], order.worker_start.mark)


class _Spawned(ProcessHandle):
    def __init__(self, files: Sequence[int], mark: str) -> None:
        # one thread each: workers are the parallelism, and bits depend on the number of threads
        variables = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from physgym.worker.main import main; main()", *map(str, files)],
            stdin=subprocess.DEVNULL,
            env=tree.marked(variables, mark),
            pass_fds=[file for file in files if file >= 0],
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which decides
        )
        super().__init__(self._process.pid, mark)

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)


@contextlib.contextmanager
def _written(payload: bytes) -> Iterator[int]:
    """Write some bytes into a file without a name; give its descriptor, from the beginning on."""
    file = make_file()
    try:
        rest = memoryview(payload)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)
