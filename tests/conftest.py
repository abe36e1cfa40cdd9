"""Every test runs in a temporary folder of its own and must leave no process behind."""

from __future__ import annotations

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
from tests.support.processes import commands_of, pids_below
from tests.support.repositories import identity, repository
from tests.support.turns import pytest_collection_modifyitems, pytest_configure

__all__ = ["identity", "repository"]  # fixtures of all tests
__all__ += ["pytest_collection_modifyitems", "pytest_configure"]  # hooks

os.environ.setdefault("PHYSGYM_REPORTS", "none")  # those of reports ask for them

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # a folder in memory; bytes that have to be free there and in all


def place() -> str:
    """A folder for temporary files: in memory, if there is room and nobody names one; a disk takes long to sync."""
    free = shutil.disk_usage(MEMORY).free if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else 0
    in_memory = "TMPDIR" not in os.environ and min(free, psutil.virtual_memory().available) > ROOM
    return str(MEMORY) if in_memory else tempfile.gettempdir()


if "PHYSGYM_TESTS_FOLDER" not in os.environ:  # pytest-xdist's processes have that of the one that starts them
    os.environ["PHYSGYM_TESTS_DISK"] = tempfile.gettempdir()
    folder = os.environ["PHYSGYM_TESTS_FOLDER"] = tempfile.mkdtemp(prefix="physgym-tests-", dir=place())
    # after multiprocessing, whose own folder is in it, has removed that
    Finalize(None, shutil.rmtree, [folder], {"ignore_errors": True}, exitpriority=-200)
    # what tests, and the libraries that they use, leave among temporary files goes at the end; pytest's own stays
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place())
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


@pytest.fixture
def disk():
    """A folder where temporary files usually are, for what memory cannot do, such as reads past the cache."""
    with tempfile.TemporaryDirectory(dir=os.environ["PHYSGYM_TESTS_DISK"]) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def stays_in_its_folder():
    """Find the test that leaves the process in another folder: programs that later tests start would begin there."""
    home = Path.cwd()
    yield
    now = Path.cwd()
    os.chdir(home)
    assert now == home, f"the test left the process in {now}"


@pytest.fixture(autouse=True)
def no_process_left():
    before = pids_below(os.getpid())
    yield
    deadline = time.monotonic() + 7  # less than what they would take to end by themselves
    while left := commands_of(pids_below(os.getpid()) - before):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"the test left processes behind: {left}")
        time.sleep(0.05)
