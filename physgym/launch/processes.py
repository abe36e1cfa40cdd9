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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from physgym.errors import ConfigError, WorkerError
from physgym.protocol.buffers import make_file
from physgym.system import process_tree as tree
from physgym.system.children import Lifeline
from physgym.system.cores import THREAD_VARIABLES
from physgym.system.descriptors import above_standard
from physgym.system.process_tree import Tree

CONTEXTS = ("spawn", "forkserver", "fork")

NO_DESCRIPTORS = (
    "cannot start worker {index}: {error}. Every worker needs four file descriptors here; raise the limit "
    "(ulimit -n), use fewer workers, or close what is open"
)


class Handle(Protocol):
    """A child process."""

    pid: int
    tree: Tree

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""


class _Spawned:
    """A fresh interpreter."""

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
        self.pid = self._process.pid
        self.tree = Tree(tree.look(self.pid), mark)

    def poll(self) -> int | None:
        return self._process.poll()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)


class _Forked:
    """A copy of this process."""

    def __init__(self, run: Any, mark: str) -> None:
        _flush_output()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _child(run)
        self.tree = Tree(tree.look(self.pid), mark)

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


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there may be none, or its reader be gone
            stream.flush()


def _child(run: Any) -> None:
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


class _Served:
    """A fork of multiprocessing's server process, which has imported the worker's modules once."""

    def __init__(self, target: Any, arguments: tuple[Any, ...], mark: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["physgym.worker.main"])
        self._process = context.Process(target=target, args=arguments, daemon=True)
        with _importable_main():
            self._process.start()
        # else every fork of this process would end it when it exits
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.tree = Tree(tree.look(self.pid), mark)

    def poll(self) -> int | None:
        return self._process.exitcode

    def signal(self, number: int) -> None:
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


def start(
    context: str,
    *,
    index: int,
    mark: str,
    payload: bytes,
    run: Any,
    target: Any,
    lifeline: Lifeline,
    sock: socket.socket | None,
    memory: int | None,
) -> Handle:
    """Start a worker process.

    Args:
        context: "spawn", "forkserver" or "fork".
        index: Which worker it is.
        mark: Of its tree of processes.
        payload: What a process that shares no memory with its parent must know.
        run: Called in a fork, without arguments.
        target: Called in a process of the fork server with payload, descriptor of the lifeline, socket and descriptor
            of the shared memory.
        lifeline: Ends the process when this process ends.
        sock: The worker's end of its connection, None if it dials.
        memory: Descriptor of the shared memory, if there is some.

    Raises:
        WorkerError: The system refuses.
    """
    sock_file = -1 if sock is None else sock.fileno()
    memory_file = -1 if memory is None else memory
    try:
        if context == "spawn":
            with _written(payload) as told:
                handle: Handle = _Spawned([lifeline.read, sock_file, memory_file, told], mark)
        elif context == "fork":
            handle = _Forked(run, mark)
        else:
            pass_on = multiprocessing.reduction.DupFd
            handle = _Served(target, (payload, _Files(pass_on, lifeline.read, sock_file, memory_file)), mark)
    except OSError as error:
        raise WorkerError(NO_DESCRIPTORS.format(index=index, error=error.strerror)) from error
    lifeline.bind(handle.pid)
    return handle


@contextlib.contextmanager
def _written(payload: bytes) -> Iterator[int]:
    """Give the descriptor of a file without a name that holds some bytes, read from its beginning."""
    file = make_file()
    try:
        rest = memoryview(payload)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


class _Files:
    """Descriptors that multiprocessing passes on when it starts a process."""

    def __init__(self, pass_on: Any, *files: int) -> None:
        self._pass_on, self._files = pass_on, files

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, tuple(None if file < 0 else self._pass_on(file) for file in self._files)


def _received(*files: Any) -> tuple[int, ...]:
    return tuple(-1 if file is None else above_standard(file.detach()) for file in files)


def families(handles: Sequence[Handle]) -> list[tree.Process]:
    """Return what processes have started, while they live: afterwards some of it may not be found any more."""
    return tree.members([handle.tree for handle in handles]) if handles else []


def reap(handles: Sequence[Handle], patience: float, known: Sequence[tree.Process] = ()) -> None:
    """Wait for processes to end, and end those that do not, and all that they have started.

    Args:
        handles: The processes.
        patience: Seconds to wait.
        known: What they have started, as far as that is known.
    """
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


def _await(handles: Sequence[Handle], patience: float) -> None:
    deadline, pause = time.monotonic() + patience, 0.0005
    while any(handle.poll() is None for handle in handles) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


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
