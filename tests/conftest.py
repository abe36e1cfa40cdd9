"""Every test runs in a temporary folder of its own and must leave no process behind."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import tempfile
import time
from multiprocessing.util import Finalize
from pathlib import Path

import psutil
import pytest

from tests.support import sizes  # noqa: F401  # small files count the bytes of rows alone
from tests.support.repositories import identity, repository
from tests.support.turns import pytest_collection_modifyitems, pytest_configure

__all__ = ["identity", "repository"]  # fixtures of all tests
__all__ += ["pytest_collection_modifyitems", "pytest_configure"]  # hooks

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

if "PHYSGYM_TESTS_FOLDER" not in os.environ:  # pytest-xdist's processes have that of the one that starts them
    folder = os.environ["PHYSGYM_TESTS_FOLDER"] = tempfile.mkdtemp(prefix="physgym-tests-")
    # after multiprocessing, whose own folder is in it, has removed that
    Finalize(None, shutil.rmtree, [folder], {"ignore_errors": True}, exitpriority=-200)
    # what tests, and the libraries that they use, leave among temporary files goes at the end; pytest's own stays
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.tempdir = str(Path(folder, "tmp"))
    Path(folder, "tmp").mkdir()
    os.environ.setdefault("PHYSGYM_CACHE", str(Path(folder, "cache")))  # the developer's own is left alone


def label(value) -> str:
    """A parameter as part of a test's name, without addresses: all processes of tests must collect the same names."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def pytest_collection_finish() -> None:
    """Spare Python's collector, in this process and its forks, the millions of objects that are there by now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_process_left():
    before = children()
    yield
    deadline = time.monotonic() + 3
    while left := {pid: command for pid, command in children().items() if pid not in before}:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"the test left processes behind: {left}")
        time.sleep(0.05)


def children() -> dict[int, str]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[process.pid] = " ".join(process.cmdline())
    # Python's resource tracker and its fork server belong to the test process and live as long as it, as does ours
    servers = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "tests.support.commands")
    return {pid: command for pid, command in found.items() if not any(server in command for server in servers)}
