"""What an environment that was made says of itself; workers send it, and `physgym.code` looks it up."""

from __future__ import annotations

import os
from typing import Any

# packages whose wrappers around an environment are not part of the simulation
AROUND = ("gymnasium", "physgym")


def describe_made(env: Any) -> dict[str, list[str]]:
    """Say of an environment which classes it is of, and which files it reads, as text.

    Args:
        env: The environment, maybe with wrappers around it; those of Gymnasium and of physgym are left out.
    """
    env = getattr(env.unwrapped, "simulation", env) if type(env.unwrapped).__module__ == "physgym.surrogate" else env
    layers, layer = [], env
    while layer is not env.unwrapped:
        if type(layer).__module__.partition(".")[0] not in AROUND:
            layers.append(type(layer))
        layer = getattr(layer, "env", env.unwrapped)
    classes = [c for kind in (*layers, type(env.unwrapped)) for c in kind.__mro__ if c is not object]
    names = [f"{c.__module__}:{c.__qualname__}" for c in classes if c.__module__ not in ("typing", "abc")]
    files = getattr(env.unwrapped, "files_read", ())
    files = [files] if isinstance(files, (str, os.PathLike)) else files
    return {"classes": list(dict.fromkeys(names)), "files": [os.fspath(name) for name in files]}
