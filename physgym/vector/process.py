"""Worker processes as their parent sees them: three ways to start one, one way to watch and end it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from physgym.errors import ConfigError, WorkerError

# one BLAS thread per worker: workers are the parallelism, and bits depend on the number of threads
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
CONTEXTS = ("spawn", "forkserver", "fork")

NO_DESCRIPTORS = (
    "cannot start worker {index}: {error}. Every worker needs four file descriptors here; raise the limit "
    "(ulimit -n), use fewer workers, or close what is open"
)


class Handle(Protocol):
    """A child process."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""


class _Spawned:
    """A fresh interpreter."""

    def __init__(self, files: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from physgym.vector.worker import main; main()", *map(str, files)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
            pass_fds=[file for file in files if file >= 0],
            start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which decides
        )
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)


class _Forked:
    """A copy of this process."""

    def __init__(self, run: Any, inherited: Iterable[int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _child(run, inherited)

    def poll(self) -> int | None:
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
        if self.poll() is None:
            os.kill(self.pid, number)


def _child(run: Any, inherited: Iterable[int]) -> None:
    status = 1
    try:
        os.setsid()
        for file in inherited:  # else other workers would not see their parent end
            with contextlib.suppress(OSError):
                os.close(file)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in the child
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class _Served:
    """A fork of multiprocessing's server process, which has imported the worker's modules once."""

    def __init__(self, target: Any, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["physgym.vector.worker"])
        self._process = context.Process(target=target, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Lifeline:
    """A pipe from parent to child whose end tells the child that its parent is gone.

    Attributes:
        untold: What the child has not been told yet.
    """

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.untold = memoryview(b"")

    def close_read(self) -> None:
        """The parent's copy of the child's end."""
        if self.read >= 0:
            os.close(self.read)
            self.read = -1

    def close(self) -> None:
        """Let the child end."""
        self.close_read()
        if self.write >= 0:
            os.close(self.write)
            self.write = -1

    def tell(self, data: bytes) -> None:
        """Write as much as the pipe takes; `go_on` writes the rest. A child that is gone is noticed elsewhere."""
        self.untold = memoryview(data)
        self.go_on()

    def go_on(self) -> None:
        """Write more of it."""
        try:
            while self.untold:
                self.untold = self.untold[os.write(self.write, self.untold) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.untold = memoryview(b"")


def start(
    context: str,
    *,
    index: int,
    payload: bytes,
    run: Any,
    target: Any,
    lifeline: Lifeline,
    sock: socket.socket | None,
    memory: int | None,
    inherited: Iterable[int],
) -> Handle:
    """Start a worker process.

    Args:
        context: "spawn", "forkserver" or "fork".
        index: Which worker it is.
        payload: What a process that shares no memory with its parent must know.
        run: Called in a fork, without arguments.
        target: Called in a process of the fork server with payload, descriptor of the lifeline, socket and descriptor
            of the shared memory.
        lifeline: Ends the process when this process ends.
        sock: The worker's end of its connection, None if it dials.
        memory: Descriptor of the shared memory, if there is some.
        inherited: Descriptors that a fork must close.

    Raises:
        WorkerError: The system refuses.
    """
    sock_file = -1 if sock is None else sock.fileno()
    memory_file = -1 if memory is None else memory
    try:
        if context == "spawn":
            return _Spawned([lifeline.read, sock_file, memory_file])
        if context == "fork":
            return _Forked(run, inherited)
        pass_on = multiprocessing.reduction.DupFd
        context_files = _Files(pass_on, lifeline.read, sock_file, memory_file)
        return _Served(target, (payload, context_files))
    except OSError as error:
        raise WorkerError(NO_DESCRIPTORS.format(index=index, error=error.strerror)) from error


class _Files:
    """Descriptors that multiprocessing passes on when it starts a process."""

    def __init__(self, pass_on: Any, *files: int) -> None:
        self._pass_on, self._files = pass_on, files

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, tuple(None if file < 0 else self._pass_on(file) for file in self._files)


def _received(*files: Any) -> tuple[int, ...]:
    return tuple(-1 if file is None else file.detach() for file in files)


def reap(handles: Sequence[Handle], patience: float) -> None:
    """Wait for processes to end, and end those that do not."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + (patience if number is None else 1.0)
        for handle in handles:
            if number is not None and handle.poll() is None:
                handle.signal(number)
                handle.signal(signal.SIGCONT)  # a stopped process would not see it
        pause = 0.0005
        while any(handle.poll() is None for handle in handles) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
    for handle in handles:
        if handle.poll() != 0:  # it could not close its environments; what they started is in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(handle.pid, signal.SIGKILL)


def exit_text(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "closed its connection"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def check_context(context: str | None) -> str:
    """The start method, "spawn" by default.

    Raises:
        ConfigError: There is no such method.
    """
    if context is None:
        return "spawn"
    if context not in CONTEXTS or context not in ("spawn", *multiprocessing.get_all_start_methods()):
        raise ConfigError(f"context must be one of {', '.join(CONTEXTS)}, not {context!r}")
    return context
