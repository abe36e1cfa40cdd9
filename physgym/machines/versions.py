"""Versions by which two machines may differ, so that samples of both are not the same."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from physgym._version import __version__
from physgym.code.record import Code, differences
from physgym.code.search import code_of
from physgym.errors import PhysGymError
from physgym.registration import ELSEWHERE

PACKAGES, CODES = "packages", "codes"
COMPARED = ("numpy", "gymnasium")


def versions_here(envs: Sequence[str] = ()) -> dict[str, Any]:
    """Return the versions of Python and packages, and the code of some simulations by id, as JSON data.

    Raises:
        ConfigError: An id is unknown here.
    """
    packages = {"python": platform.python_version(), "physgym": __version__, "machine": platform.machine()}
    packages |= {name: importlib.metadata.version(name) for name in COMPARED}
    return {PACKAGES: packages, CODES: {env: code_of(env).to_json() for env in envs}}


class Standard:
    """The versions that workers are to have: those of this process, or of the first worker.

    Where a run is of an id that only workers know, this process does not compute, and the first worker counts.

    Args:
        envs: Ids that workers are to make; empty where that is not known.
    """

    def __init__(self, envs: Sequence[str]) -> None:
        self._envs = tuple(envs)
        self._elsewhere = any(env.startswith(ELSEWHERE) for env in envs)
        self._packages: Mapping[str, Any] | None = None if self._elsewhere else versions_here()[PACKAGES]
        self._codes = dict[str, Code]()

    def differences(self, versions: Mapping[str, Any]) -> list[str]:
        """List what a worker has that differs, one text each.

        Args:
            versions: Those of the worker, as `versions_here` returns them.

        Raises:
            Exception: They are not of that form; any kind of exception.
        """
        there, codes = dict(versions[PACKAGES]), {env: Code.from_json(data) for env, data in versions[CODES].items()}
        if self._packages is None:
            self._packages, self._codes = there, codes
        where = "at the first worker" if self._elsewhere else "here"
        found = [
            f"{name} {there.get(name, 'missing')} there, {self._packages.get(name, 'missing')} {where}"
            for name in sorted({*self._packages, *there})
            if self._packages.get(name) != there.get(name)
        ]
        for env, code in codes.items():
            if env not in self._codes and self._is_used(env):
                with contextlib.suppress(PhysGymError):  # one that this machine does not have is none to compare
                    self._codes[env] = code_of(env)
            if env in self._codes:
                unlike = differences(code, self._codes[env])
                found += [f"the code of {env}: {text} (there, then {where})" for text in unlike]
        return found

    def _is_used(self, env: str) -> bool:
        """Return whether this process may look for the code of an environment, which imports its module.

        What a worker names imports nothing here that the run does not use.
        """
        return env in self._envs or (not self._envs and env.rpartition(":")[0] in sys.modules)
