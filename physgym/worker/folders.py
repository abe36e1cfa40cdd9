"""Working folders of environments that share a process: each one finds the process where it left it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import gymnasium

from physgym.worker.machine_claims import claimed, release_machine


def here() -> str:
    """Return the working folder of the process; empty where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - a tenth of the time of Path.cwd, in the loop that steps environments
    except OSError:
        return ""


class Folder:
    """The working folder of an environment; within the ``with`` statement it is that of the process.

    Attributes:
        path: The folder, absolute; empty as long as the environment stays where the process is.
    """

    def __init__(self) -> None:
        self.path = ""
        self._home = ""

    def __enter__(self) -> Folder:
        self._home = here()
        if self.path and self.path != self._home:
            os.chdir(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = here()
        if now == self._home:
            self.path = ""
            return
        self.path = now
        if self._home:
            os.chdir(self._home)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Let the process do something for others where it was before, in the middle of what the environment does."""
        now = here()
        if now == self._home or not self._home:
            yield
            return
        os.chdir(self._home)
        try:
            yield
        finally:
            os.chdir(now)


class OwnFolder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that works in a folder of its own, and leaves the process where it is.

    Where a machine may hold one of its kind alone, it is that one until it is closed.

    Args:
        make: Makes the environment.

    Raises:
        SharedMachine: There is another one.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        with (folder := Folder()):
            super().__init__(claimed(make()))
        self._folder = folder

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment."""
        with self._folder:
            return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Step the environment."""
        with self._folder:
            return self.env.step(action)

    def render(self) -> Any:
        """Return the picture of the environment."""
        with self._folder:
            return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        try:
            with self._folder:
                self.env.close()
        finally:
            release_machine(self.env)
