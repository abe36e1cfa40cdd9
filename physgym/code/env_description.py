"""Descriptions of environments that were made; workers send them, and `physgym.code.search` looks them up."""

from __future__ import annotations

import os
from typing import Any

# modules of environments that stand for another one, and the name of that one
STAND_INS = {"physgym.running.surrogate": "simulation", "physgym.batched.row_env": "batch"}
# packages whose wrappers around an environment are not part of the simulation
AROUND = ("gymnasium", "physgym")


def describe_env(env: Any) -> dict[str, list[str]]:
    """Say of an environment which classes it is of, and which files it reads, as text.

    Args:
        env: The environment, maybe with wrappers around it; those of Gymnasium and of physgym are left out.
    """
    stands_for = STAND_INS.get(type(env.unwrapped).__module__)
    if stands_for is not None:
        env = getattr(env.unwrapped, stands_for, env)
    layers, layer = [], env
    while layer is not env.unwrapped:
        if type(layer).__module__.partition(".")[0] not in AROUND:
            layers.append(layer)
        layer = getattr(layer, "env", env.unwrapped)
    layers.append(env.unwrapped)
    classes = [c for one in layers for c in type(one).__mro__ if c is not object]
    names = [f"{c.__module__}:{c.__qualname__}" for c in classes if c.__module__ not in ("typing", "abc")]
    files: dict[str, None] = {}  # in their order
    for one in layers:
        read = getattr(one, "files_read", ())
        files |= dict.fromkeys(map(os.fspath, [read] if isinstance(read, (str, os.PathLike)) else read))
    return {"classes": list(dict.fromkeys(names)), "files": list(files)}
