"""Processes that are killed, or refused, at their n-th system call that changes files; see `killshim.c`."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from physgym.errors import DatasetError

KILL, KILL_TORN, FAIL, FAIL_TORN, FAIL_ONCE, HALF_ONCE = range(6)  # at the n-th call; FAIL: at all from it on
DATA, MAKE, REMOVE, SYNC, OPEN = 1, 2, 4, 8, 16
CHANGES = DATA | MAKE | REMOVE | SYNC
SURVIVED, REFUSED, WRONG = 0, 3, 4  # exit statuses of a child
BOARD = 1 << 16  # bytes that a child and its parent share


def compile_shim(folder: Path) -> Path:
    library = folder / "killshim.so"
    source = Path(__file__).with_name("killshim.c")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


def in_processes(function: str, jobs: list[dict], *, library: Path | None = None, timeout: float = 110) -> list:
    """What "module:function" returns for each of the arguments, each called in a process that may preload a library."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **({"LD_PRELOAD": str(library)} if library else {})}

    def call(arguments: dict):
        command = [sys.executable, "-m", "tests.support.killing", function, json.dumps(arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{arguments}: exit status {done.returncode}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(call, jobs))


@dataclass
class Outcome:
    """How a child ended.

    Attributes:
        killed: Whether the shim killed it.
        refused: The text of the DatasetError that ended it, if one did.
        acknowledged: What it last called `acknowledge` with.
        calls: Calls that changed files, by name; unknown of a killed child.
    """

    killed: bool
    refused: str | None
    acknowledged: int
    calls: dict[str, int]


CALLS = [
    *("open", "open64", "openat", "openat64", "mkdir", "link", "rename", "renameat", "renameat2"),
    *("write", "writev", "pwrite", "pwrite64", "pwritev", "pwritev64", "pwritev2", "copy_file_range"),
    *("sendfile", "sendfile64", "ftruncate", "ftruncate64", "fallocate", "fallocate64"),
    *("posix_fallocate", "posix_fallocate64", "unlink", "unlinkat", "rmdir", "remove", "fsync", "fdatasync"),
]


class Attempts:
    """Carries out `scenario(folder, acknowledge)` in forked children with a fault at a chosen call."""

    def __init__(self) -> None:
        self._shim = ctypes.CDLL(None)
        self._shim.shim_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._shim.shim_counted.argtypes = [ctypes.c_char_p]
        self._shim.shim_counted.restype = ctypes.c_long
        self._board = mmap.mmap(-1, BOARD)

    def run(
        self, scenario, folder: Path, at: int = 0, way: int = KILL, error: int = 0, kinds: int = CHANGES
    ) -> Outcome:
        """One attempt; `at` = 0 is without a fault."""
        self._board[:] = bytes(BOARD)
        child = os.fork()
        if child == 0:
            self._child(scenario, folder, (at, way, error, kinds))
        status = os.waitpid(child, 0)[1]
        acknowledged = int.from_bytes(self._board[:8], "little")
        text = self._board[8:].rstrip(b"\0").decode()
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL, f"the child died of signal {os.WTERMSIG(status)}: {text}"
            assert at, "something else killed the child"
            return Outcome(True, None, acknowledged, {})
        code = os.WEXITSTATUS(status)
        assert code in (SURVIVED, REFUSED), f"the child ended with {code}: {text}"
        report = json.loads(text)
        return Outcome(False, report["refused"], acknowledged, report["calls"])

    def calm(self, folder: Path) -> None:
        """No faults in this process; syncing of files in the folder is left out, since only a power cut needs it."""
        self._shim.shim_arm(os.fsencode(folder), 0, KILL, 0, 0)

    def _child(self, scenario, folder: Path, fault: tuple[int, int, int, int]) -> None:
        code, refused = WRONG, None
        try:
            self._shim.shim_arm(os.fsencode(folder), *fault)
            try:
                scenario(folder, self._acknowledge)
                code = SURVIVED
            except DatasetError as error:
                code, refused = REFUSED, str(error)
            self._shim.shim_disarm()
            calls = {name: count for name in CALLS if (count := self._shim.shim_counted(name.encode()))}
            report = json.dumps({"refused": refused, "calls": calls}).encode()
        except BaseException:  # noqa: BLE001  # the parent is to hear of everything
            code, report = WRONG, traceback.format_exc()[-4000:].encode()
        self._board[8 : 8 + len(report)] = report
        os._exit(code)

    def _acknowledge(self, count: int) -> None:
        self._board[:8] = count.to_bytes(8, "little")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_same_files(found: Path, wanted: Path) -> None:
    """Two folders hold the same files, byte by byte."""
    got, want = contents(found), contents(wanted)
    assert sorted(got) == sorted(want)
    for name, data in want.items():
        if got[name] != data:
            at = next((i for i, (a, b) in enumerate(zip(got[name], data, strict=False)) if a != b), "the end")
            raise AssertionError(f"{name}: {len(got[name])} and {len(data)} bytes differ from byte {at} on")


def fresh(folder: Path, prepared: Path | None = None) -> Path:
    """Make the folder absent, or a copy of another."""
    shutil.rmtree(folder, ignore_errors=True)
    if prepared is not None:
        shutil.copytree(prepared, folder)
    return folder


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    gc.freeze()  # the collector of each process that is forked need not look at all that is imported
    print(json.dumps(function(**json.loads(sys.argv[2]))))  # noqa: T201
