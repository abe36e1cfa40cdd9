"""Child processes that end when this process does, even if it is killed, with everything that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from physgym.system import process_tree as tree
from physgym.system.descriptors import above_standard, fill_standard

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 1.0  # seconds until a process that was killed is waited for no longer


class ParentPipe:
    """A pipe from this process to a child, on which nothing is sent, and whose end says that this process is gone.

    The kernel can then end the child's whole group, without any help of the child: see `bind`. A process that this one
    forks does not hold the pipe.

    Attributes:
        read: The child's end here, -1 once it is closed.
        write: This process's end, -1 once it is closed.

    Raises:
        OSError: There are no more descriptors.
    """

    def __init__(self) -> None:
        self.read = self.write = -1
        read, write = os.pipe()
        try:
            self.read = above_standard(read)
        except OSError:
            os.close(write)
            raise
        try:
            self.write = above_standard(write)
        except OSError:
            self.close_read()
            raise
        _PARENT_PIPES.add(self)

    def bind(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Have the kernel send a signal to a child's group when this end closes, and let go of the child's end.

        It does so at once, also where the child is stopped, or computes and hears nothing. Where the kernel cannot
        (other than Linux), the child has to notice the end of the pipe.

        Args:
            pid: Of the child, which leads a group of its own.
            number: The signal.
        """
        if fcntl is not None and hasattr(fcntl, "F_SETSIG"):
            with contextlib.suppress(OSError):
                # owner and signal belong to the open pipe, which the child has inherited
                fcntl.fcntl(self.read, fcntl.F_SETOWN, -pid)
                fcntl.fcntl(self.read, fcntl.F_SETSIG, number)
                fcntl.fcntl(self.read, fcntl.F_SETFL, fcntl.fcntl(self.read, fcntl.F_GETFL) | os.O_ASYNC)
        self.close_read()

    def close_read(self) -> None:
        """Let go of the child's end."""
        read, self.read = self.read, -1  # first: an interrupt must not leave the number of what others may open
        if read >= 0:
            os.close(read)

    def close_write(self) -> None:
        """Let go of this process's end: a bound child ends."""
        write, self.write = self.write, -1
        if write >= 0:
            os.close(write)

    def close(self) -> None:
        """Let go of both ends; calling it again does no harm."""
        self.close_read()
        self.close_write()


_PARENT_PIPES: weakref.WeakSet[ParentPipe] = weakref.WeakSet()


def _let_go() -> None:
    """Forget, in a process that was forked from this one, the children of this one."""
    for parent_pipe in list(_PARENT_PIPES):
        with contextlib.suppress(OSError):
            parent_pipe.close_write()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Child:
    """A program in a session of its own, which ends with this process or with the block, with all that it started.

    Use it as a context manager::

        with Child([sys.executable, "-m", "physgym", "train", ...], cwd=folder) as child:
            status = child.process.wait()

    Ctrl-C in a terminal does not reach it: pass signals on with `child.send`.

    Args:
        command: The program and its arguments.
        environment: Its variables; those of this process by default.
        **options: Further arguments of `subprocess.Popen`.

    Attributes:
        process: The `subprocess.Popen`.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any) -> None:
        fill_standard()  # or the program would be born without, and take its own files for them
        mark = tree.new_mark()
        self._parent_pipe = ParentPipe()
        variables = tree.marked(os.environ if environment is None else environment, mark)
        passed = [*options.pop("pass_fds", ()), self._parent_pipe.read]
        try:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                list(command), env=variables, pass_fds=passed, start_new_session=True, **options
            )
        except BaseException:
            self._parent_pipe.close()
            raise
        self._tree = tree.Tree(tree.look(self.process.pid), mark)
        self._parent_pipe.bind(self.process.pid)
        self._owner = os.getpid()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self.process.pid

    def pids(self) -> set[int]:
        """Return the numbers of the process and of all that it has started, as far as they run."""
        return {self.process.pid, *(process.pid for process in tree.members([self._tree]))}

    def send(self, number: int) -> None:
        """Send a signal to its group, if it still runs."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def end(self) -> int | None:
        """End what is left of it and of all that it has started; calling it again does no harm.

        Returns:
            Its exit status, None where it cannot be ended.
        """
        if os.getpid() != self._owner:
            return None
        tree.end([self._tree], whole=self.process.poll() is None)
        self._parent_pipe.close()
        if self.process.poll() is None:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def capture(
    command: Sequence[str],
    *,
    timeout: float,
    stdin: bytes = b"",
    cwd: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Return what a program prints, and how it ended.

    Unlike `subprocess.run` it does not wait for others that hold the program's output open, such as a server that the
    program has started and left behind: what counts is the end of the program itself.

    Args:
        command: The program and its arguments.
        timeout: Seconds after which it is ended, with all that it has started.
        stdin: What it reads.
        cwd: Its working folder.
        environment: Its variables; those of this process by default.

    Raises:
        OSError: It cannot be started.
        subprocess.TimeoutExpired: It takes too long.
    """
    fill_standard()
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        source.write(stdin)
        source.seek(0)
        child = Child(command, environment, cwd=cwd, stdin=source, stdout=output, stderr=errors)
        try:
            status = child.process.wait(timeout)
        except BaseException:
            child.end()
            raise
        finally:
            child._parent_pipe.close()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(command), status, output.read(), errors.read())


def ending(status: int, auxiliary: str = "was") -> str:
    """Return how a program has ended, in words.

    Args:
        status: Its exit status, that of a signal negative.
        auxiliary: The verb before "ended by signal".
    """
    if status < 0:
        return f"{auxiliary} ended by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status}"
