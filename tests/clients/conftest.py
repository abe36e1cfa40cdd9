"""Programs in C, each built once for all tests, also for those that other processes run beside these."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import CLIENT, SANITIZED, TLS, built, has_openssl


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder in which something was built, by the first process that asks for it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir(exist_ok=True)
            build(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The folder of the examples, as their Makefile builds them."""

    def build(folder):
        command = ["make", "-s", "-j2", "-C", CLIENT, f"OUT={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "c-programs", build)


@pytest.fixture(scope="session")
def spring(tmp_path_factory):
    """The spring under the sanitizers, with TLS where it can be built."""
    options = (*SANITIZED, *TLS) if has_openssl else SANITIZED
    folder = once(tmp_path_factory, "c-spring", lambda folder: built(CLIENT / "spring.c", folder / "spring", *options))
    return folder / "spring"


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A simulation with trouble of all kinds, under the sanitizers."""
    source = Path(__file__).with_name("toy.c")
    return once(tmp_path_factory, "c-toy", lambda folder: built(source, folder / "toy", *SANITIZED)) / "toy"
