"""Descriptions of environments that were made; workers send them, and `physgym.code.search` looks them up."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from physgym.code.files_read import read_files
from physgym.code.fingerprint import fingerprint
from physgym.code.values import plain_text
from physgym.errors import ConfigError

# modules of environments that stand for another one, and the name of that one
STAND_INS = {"physgym.running.surrogate": "simulation", "physgym.batched.row_env": "batch"}
# packages whose wrappers around an environment are not part of the simulation
AROUND = ("gymnasium", "physgym")
FIXED, CONSTANTS, CONTENTS = "fixed", "constants", "contents"  # what `identify_env` adds


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


def identify_env(env: Any, fixed: Mapping[str, Any]) -> dict[str, list[str]]:
    """Say of an environment of another machine what may differ there besides its classes, as text.

    Args:
        env: The environment.
        fixed: Arguments that were given there.

    Returns:
        Further entries of what `describe_env` returns: the arguments, hashes of the constants of a dataset, and those
        of the files that it reads.
    """
    found = {FIXED: [f"{name}={plain_text(value)}" for name, value in sorted(fixed.items())]}
    values = None
    if env.has_wrapper_attr("sample_space") and env.has_wrapper_attr("constants"):
        with contextlib.suppress(Exception):  # which is raised where they are stored
            values = env.get_wrapper_attr("constants")()
    if isinstance(values, Mapping):
        found[CONSTANTS] = [f"{name}: {fingerprint(np.asarray(value))}" for name, value in sorted(values.items())]
    with contextlib.suppress(ConfigError, OSError):  # a file that is missing is said where it is recorded
        module = getattr(sys.modules.get(type(env.unwrapped).__module__), "__file__", None)
        files = read_files(Path(module).parent if module else None, describe_env(env)["files"])
        found[CONTENTS] = sorted(files.values())
    return {name: entries for name, entries in found.items() if entries}
