"""The modules of SofaPython3, imported on first use; no package index has them.

The import of SofaRuntime puts handlers of SOFA in the place of those of this process, by which Ctrl-C, the signals of
batch systems and a socket that was closed would end it at once: they are brought back.
"""

from __future__ import annotations

import importlib
import signal
from types import ModuleType
from typing import Any

from physgym.errors import ConfigError
from physgym.interrupt import kept_handlers

REPLACED = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)  # by SOFA, besides those of crashes, which stay with it


def sofa() -> Any:
    """Return the module ``Sofa`` with ``Sofa.Core`` and ``Sofa.Simulation``, and with the runtime loaded.

    Raises:
        ConfigError: SOFA is not there.
    """
    try:
        with kept_handlers(REPLACED):
            found = importlib.import_module("Sofa")
            for name in ("Sofa.Core", "Sofa.Simulation", "SofaRuntime"):
                importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"this needs SOFA with SofaPython3, which is not found ({error}). No package index has it: install SOFA "
            "from www.sofa-framework.org, set SOFA_ROOT to its folder, and add its plugins/SofaPython3/lib/python3/"
            "site-packages to PYTHONPATH; its version of Python has to be this one"
        ) from error
    return found


def runtime() -> ModuleType:
    """Return the module ``SofaRuntime``.

    Raises:
        ConfigError: SOFA is not there.
    """
    sofa()
    return importlib.import_module("SofaRuntime")


def component_class() -> Any:
    """Return the class from which components in Python are derived: ``Component``, in older versions ``Controller``.

    Raises:
        ConfigError: SOFA is not there.
    """
    core = vars(sofa().Core)
    return core["Component"] if "Component" in core else core["Controller"]
