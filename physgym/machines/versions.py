"""Versions by which two machines may differ, so that samples of both are not the same."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from physgym._version import __version__
from physgym.code.search import code_of

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
