"""Turns of the processes that run tests: a test that is marked `alone` has the machine to itself.

Such tests come first, so that the others wait once. The first of pytest-xdist's processes gets the first tests, and
keeps the machine from one that is alone to the next.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest


class Turns:
    """Locks on files that the processes of tests share.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._queue, self._machine = (folder.joinpath(name).open("w+") for name in ("queue.lock", "machine.lock"))
        self._alone = False

    def begin(self, alone: bool) -> None:
        """Wait until a test may run: if it is alone, until no other runs, else until none runs that is alone."""
        if self._alone and alone:
            return
        self.end()
        fcntl.lockf(self._queue, fcntl.LOCK_EX)  # in turn: others could keep the machine from one that is alone forever
        fcntl.lockf(self._machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.lockf(self._queue, fcntl.LOCK_UN)
        self._alone = alone

    def end(self) -> None:
        """Let others run."""
        fcntl.lockf(self._machine, fcntl.LOCK_UN)
        self._alone = False


def is_alone(item: pytest.Item | None) -> bool:
    """Return whether a test has the machine to itself."""
    return item is not None and item.get_closest_marker("alone") is not None


class TakesTurns:
    """Plugin of each of pytest-xdist's processes."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around limits of time, which do not count the waiting
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._turns.begin(is_alone(item))
        try:
            return (yield)
        finally:
            if not (is_alone(item) and is_alone(nextitem)):
                self._turns.end()


def pytest_configure(config: pytest.Config) -> None:
    """Take turns where there are several processes."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(TakesTurns(Turns(Path(os.environ["PHYSGYM_TESTS_FOLDER"]))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what is alone."""
    items.sort(key=lambda item: not is_alone(item))
