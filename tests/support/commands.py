"""The console script in a process of its own, forked from one that has imported what takes seconds.

What starts differs from what a user starts in this alone. What depends on how Python itself starts (its options, a
locale, closed streams, imports) is tried with processes that are started as a user does.
"""

from __future__ import annotations

import atexit
import contextlib
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
from collections.abc import Mapping
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("physgym")
ROOT = Path(__file__).resolve().parents[2]
SAFE = 60.0  # seconds within which the server is there


def run_command(
    folder: Path, *arguments: object, env: Mapping[str, str] | None = None, timeout: float = 110
) -> subprocess.CompletedProcess[str]:
    """Run ``physgym ARGUMENTS`` in a folder; what it printed, and its exit status.

    Args:
        folder: Where it runs.
        arguments: Of the command.
        env: Its environment variables, by default those of this process.
        timeout: Seconds, after which it is killed.
    """
    command = [str(SCRIPT), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as kept:
        files = [Path(kept, name) for name in ("stdout", "stderr")]
        request = {"argv": command, "cwd": str(folder), "env": dict(env or os.environ), "files": list(map(str, files))}
        status = _Server.get().run(request, timeout)
        return subprocess.CompletedProcess(command, status, *(file.read_text() for file in files))


class _Server:
    """The process that is forked, as seen from the tests."""

    _one: _Server | None = None

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
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

    def run(self, request: dict[str, object], timeout: float) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        child = self.answer(time.monotonic() + SAFE)["pid"]
        try:
            return self.answer(time.monotonic() + timeout)["status"]
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            raise

    def answer(self, deadline: float) -> dict[str, int]:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("the command takes too long")
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]


def _serve() -> None:
    """Fork for every request, and tell how it ended."""
    import torch  # noqa: F401

    import physgym.cli
    import physgym.training  # noqa: F401

    print(json.dumps({}), flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        print(json.dumps({"pid": child}), flush=True)  # noqa: T201
        print(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}), flush=True)  # noqa: T201


def _become(request: dict[str, list[str]]) -> None:
    """Be the console script, from its first line to its end."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        outputs = [os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for file in request["files"]]
        for number, file in enumerate([nothing, *outputs]):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout = Path("/dev/stdin").open(), os.fdopen(1, "w", closefd=False)  # noqa: SIM115
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        script = types.ModuleType("__main__")
        script.__file__ = request["argv"][0]
        sys.modules["__main__"], sys.argv = script, request["argv"]
        sys.path[:] = [*request["env"].get("PYTHONPATH", "").split(os.pathsep), *sys.path]
        from physgym.cli import main

        try:
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
