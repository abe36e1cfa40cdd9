"""The console script and other programs, each a process forked from one that has imported what takes seconds.

What starts differs from what a user starts in this, and in that its workers are forks unless `fresh_workers` is asked
for. What depends on how Python itself starts (its options, a locale, closed streams, imports) is tried with processes
that are started as a user does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.workers import fork_workers

SCRIPT = Path(sys.executable).with_name("physgym")
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = dict(os.environ)  # that of no single test
IMPORTED = (
    "physgym.cli",
    "physgym.experiment.runs",
    "physgym.report.reports",
    "physgym.running.save_frames",
    "physgym.training.curves",
    "physgym.transport.unix",
    "torch._dynamo",  # which the first optimizer imports
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
)
SAFE = 110.0  # seconds within which the server is there, which imports torch


def run_command(
    folder: Path,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    timeout: float = 110,
    fresh_workers: bool = False,
    program: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``physgym ARGUMENTS`` in a folder; what it printed, and its exit status.

    Args:
        folder: Where it runs.
        arguments: Of the command.
        env: Its environment variables, by default those of this process.
        timeout: Seconds, after which it is killed.
        fresh_workers: Have its workers start as those of a user do.
        program: Run the first argument, a file with Python, in place of ``physgym``.
    """
    with tempfile.TemporaryDirectory() as kept:
        files = [Path(kept, name) for name in ("stdout", "stderr")]
        command = Command(folder, *arguments, files=files, env=env, fresh_workers=fresh_workers, program=program)
        try:
            status = command.wait(timeout)
        finally:
            command.kill()
        return subprocess.CompletedProcess(command.arguments, status, *(file.read_text() for file in files))


def run_program(folder: Path, *arguments: object, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` in a folder, the first of which is a file; what it printed, and its exit status."""
    return run_command(folder, *arguments, program=True, timeout=timeout)


class Command:
    """A command that runs, in a session of its own.

    Args:
        folder: Where it runs.
        arguments: Of the command.
        files: Where its output and its errors go.
        env: Its environment variables, by default those of this process.
        fresh_workers: Have its workers start as those of a user do.
        program: Run the first argument, a file with Python, in place of ``physgym``.

    Attributes:
        arguments: The whole command line.
        pid: Number of its process.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        files: Sequence[Path],
        env: Mapping[str, str] | None = None,
        fresh_workers: bool = False,
        program: bool = False,
    ) -> None:
        self.arguments = [*map(str, arguments)] if program else [str(SCRIPT), *map(str, arguments)]
        self._server = _Server.get()
        self._status: int | None = None
        self.pid = self._server.ask(
            argv=self.arguments,
            cwd=str(folder),
            env=dict(env or os.environ),
            program=program,
            files=[str(file.absolute()) for file in files],
            fresh_workers=fresh_workers,
        )

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        if self._status is None:
            self._status = self._server.ask(poll=self.pid)
        return self._status

    def wait(self, timeout: float) -> int:
        """Return its exit status, once it has ended."""
        deadline, pause = time.monotonic() + timeout, 0.001
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the command takes too long")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return status

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(SAFE)


class _Server:
    """The process that is forked, as seen from the tests."""

    _one: _Server | None = None

    def __init__(self) -> None:
        environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(ROOT), ENVIRONMENT.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.commands"], cwd=ROOT, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    @classmethod
    def get(cls) -> _Server:
        if cls._one is None or cls._one.process.poll() is not None:
            cls._one = cls()
            cls._one.answer(time.monotonic() + SAFE)
        return cls._one

    def ask(self, **request: object) -> Any:
        """Send a request, and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer(time.monotonic() + SAFE)

    def answer(self, deadline: float) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self.process.kill()
            raise TimeoutError("the process that starts commands does not answer")
        return json.loads(self.process.stdout.readline())


def _serve() -> None:
    """Fork for every command, and tell how it ended."""
    for module in IMPORTED:
        importlib.import_module(module)
    importlib.import_module("physgym.code.search").code_of("physgym/Spring-v0")  # each fork would read physgym again
    gc.freeze()  # the collector of each fork need not look at all that is imported
    print(json.dumps(None), flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)  # noqa: T201
            continue
        child = os.fork()
        if child == 0:
            try:
                _become(request)
            finally:  # also where Ctrl-C comes at its very end
                os._exit(1)
        print(json.dumps(child), flush=True)  # noqa: T201


def _become(request: dict[str, Any]) -> None:
    """Be the console script, from its first line to its end."""
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        outputs = [
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600) for file in request["files"]
        ]
        for number, file in enumerate([nothing, *outputs]):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout = Path("/dev/stdin").open(), os.fdopen(1, "w", closefd=False)  # noqa: SIM115
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        tempfile.tempdir, sys.dont_write_bytecode = None, "PYTHONDONTWRITEBYTECODE" in request["env"]
        script = types.ModuleType("__main__")
        script.__file__ = file = request["argv"][0]
        sys.modules["__main__"], sys.argv = script, request["argv"]
        sys.path[:] = [*request["env"].get("PYTHONPATH", "").split(os.pathsep), *sys.path]
        from physgym.cli import main

        if not request["fresh_workers"]:
            fork_workers()
        try:
            if request["program"]:
                sys.path.insert(0, str(Path(file).absolute().parent))
                exec(compile(Path(file).read_text(), file, "exec"), vars(script))  # noqa: S102 - a test's own
            else:
                main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)  # noqa: T201
    except BaseException:  # noqa: BLE001  # printed, as Python does
        traceback.print_exc()
    finally:
        _end(status)


def _end(status: int) -> None:
    with contextlib.suppress(BaseException):
        threading._shutdown()  # as Python does at its end
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
