"""The start methods by their names."""

from __future__ import annotations

import multiprocessing
from typing import Any

from physgym.errors import ConfigError
from physgym.launch.base import Launcher
from physgym.launch.fork import ForkLauncher
from physgym.launch.forkserver import ForkServerLauncher
from physgym.launch.processes import ProcessLauncher
from physgym.launch.spawn import SpawnLauncher

LAUNCHERS: dict[str, type[ProcessLauncher]] = {
    "spawn": SpawnLauncher,
    "forkserver": ForkServerLauncher,
    "fork": ForkLauncher,
}


def launcher_of(context: str | None, given: Launcher[Any] | None = None) -> Launcher[Any]:
    """Return the launcher of a start method, by default that of "spawn"; or one that is given in its place.

    Raises:
        ConfigError: There is no such method, or both are given.
    """
    if given is not None:
        if context is not None:
            raise ConfigError(
                f"launcher= has workers started elsewhere, context={context!r} here; leave one of both out"
            )
        if not isinstance(given, Launcher):
            raise ConfigError(f"launcher must be a physgym.launch.base.Launcher, such as a Reception, not {given!r}")
        return given
    context = "spawn" if context is None else context
    if context not in LAUNCHERS or context not in ("spawn", *multiprocessing.get_all_start_methods()):
        raise ConfigError(f"context must be one of {', '.join(LAUNCHERS)}, not {context!r}")
    return LAUNCHERS[context]()
