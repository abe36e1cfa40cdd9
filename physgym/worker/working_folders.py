"""The working folders of all environments of a process, and when to look at them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from physgym.errors import ConfigError
from physgym.placement import Env
from physgym.worker.failures import RequestFailed
from physgym.worker.folders import Folder, here

WATCHED_STEPS = 16  # of each environment, after which of its folder is looked at resets and whole messages alone


class WorkingFolders:
    """The working folders of environments that share a process.

    Args:
        envs: The environments.
        folders: The folders in which their constructors left the process; by default they did not change it.
        local: Whether the process is not theirs alone, and is to be left in the folder in which it was.

    Attributes:
        steps: The step of each environment, in its folder; the list stays the same.
    """

    def __init__(self, envs: Sequence[Env], folders: Sequence[Folder] = (), *, local: bool = False) -> None:
        self._envs, self._folders = envs, list(folders) or [Folder() for _ in envs]
        self._local, self._home = local, here()
        self._alone = len(envs) == 1 and not local  # nobody minds in which folder it works
        self._differ = False  # whether one was seen in another folder than the others
        self._unwatched = [WATCHED_STEPS] * len(envs)  # steps until a step is made without looking at the folder
        self.steps: list[Callable[[Any], Any]] = self._watched_steps()
        if self._alone:
            self.steps = [env.step for env in envs]
            if self._folders[0].path:
                os.chdir(self._folders[0].path)
        self.compare()

    def of(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Return the folder in which an environment works, as a context."""
        return _ANYWHERE if self._alone else self._folders[index]

    def outside(self, index: int) -> contextlib.AbstractContextManager[Any]:
        """Return the folder of everybody else in the process, while an environment is busy, as a context."""
        return self._folders[index].away() if self._local else _ANYWHERE

    def before(self) -> str:
        """Return the folder to which the process is to come `back` after a request."""
        if not self._local:
            return self._home
        try:
            return os.getcwd()  # noqa: PTH109 - as `here`, of which a call counts here, as in `back`
        except OSError:
            return ""

    def back(self, home: str) -> str:
        """Bring the process back to a folder; return the other one in which it was, else an empty text."""
        if self._alone or not home:
            return ""
        try:
            now = os.getcwd()  # noqa: PTH109
        except OSError:
            now = ""
        if now == home:
            return ""
        os.chdir(home)
        return now

    def keep(self, folder: str) -> None:
        """Keep the folder to which a step that was not watched has moved the process.

        Raises:
            RequestFailed: There are several environments, and it may belong to any.
        """
        self.compare(differ=True)
        if len(self._envs) > 1:
            raise RequestFailed(0, "step") from ConfigError(
                f"an environment left the process in the working folder {folder} in a step, after {WATCHED_STEPS} "
                "steps in which none did. Which one it was is not known, and others may have used its folder. Change "
                "the folder in the constructor or in reset, come back before the step ends, or declare "
                'metadata["physgym.single"] = "process": one environment per process'
            )
        self._folders[0].path = folder

    def compare(self, *, differ: bool = False) -> None:
        """Give every environment its folder for all it does, from the first one on that has a folder of its own."""
        if not self._differ and not self._alone and (differ or any(folder.path for folder in self._folders)):
            self._differ = True
            self.steps[:] = self._watched_steps()

    def _watched_steps(self) -> list[Callable[[Any], Any]]:
        return [functools.partial(self._step, i) for i in range(len(self._envs))]

    def _step(self, index: int, action: Any) -> Any:
        """Step an environment in its working folder: the first times, and always where folders differ."""
        with self._folders[index]:
            values = self._envs[index].step(action)
        self.compare()
        if not self._differ:
            self._unwatched[index] -= 1
            if self._unwatched[index] <= 0:
                self.steps[index] = self._envs[index].step
        return values


_ANYWHERE = contextlib.nullcontext()
