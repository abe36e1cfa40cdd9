"""Workers of tests: forks of the test's process, where nothing depends on how they start.

By default workers are fresh interpreters, which import for a second what the test's process has imported already. Those
are tried in `tests/launch`, `tests/worker` and `tests/vector`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest

from physgym.launch.base import Launcher
from physgym.launch.methods import launcher_of
from physgym.vector import vector_env


def forking(context: str | None, given: Launcher[Any] | None = None) -> Launcher[Any]:
    """Return the launcher of a start method, by default that of "fork"; or one that is given."""
    return launcher_of(context or ("fork" if given is None else None), given)


def fork_workers() -> None:
    """Have this process fork its workers from now on."""
    vector_env.launcher_of = forking


@contextlib.contextmanager
def kept_start_method() -> Iterator[None]:
    """Keep multiprocessing's way to start processes from a library that sets it for all, torch's loaders included."""
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


@pytest.fixture
def fresh_workers() -> None:
    """Have the workers of this test start as those of a user do."""


@pytest.fixture(autouse=True)
def forked_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers of a test be forks, unless it asks for `fresh_workers`."""
    if "fresh_workers" not in request.fixturenames:
        monkeypatch.setattr(vector_env, "launcher_of", forking)
