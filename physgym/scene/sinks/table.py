"""The table of sinks: what shows scenes, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from physgym.checks import one_of
from physgym.errors import needs
from physgym.scene.sinks.base import SceneSink

# name: module, class, package that it needs and the extra that installs it
SINKS: Mapping[str, tuple[str, str, str, str]] = {
    "vedo": ("physgym.scene.sinks.vedo_window", "VedoWindow", "vedo", ""),
    "count": ("physgym.scene.sinks.counting", "CountingSink", "numpy", ""),
    "rerun": ("physgym.scene.sinks.rerun_recording", "RerunRecording", "rerun", "rerun"),
    "web": ("physgym.scene.sinks.web_page", "WebPage", "viser", "web"),
}


def make_sink(name: str, **options: Any) -> SceneSink:
    """Return a sink of a name, which is not open yet.

    Args:
        name: One of `SINKS`.
        options: Arguments of its class, such as the environments `chosen`.

    Raises:
        ConfigError: There is none, it has no such option, or a package is missing.
    """
    one_of("view", name, tuple(SINKS))
    module, kind, package, extra = SINKS[name]
    with needs(package, extra, f"--view {name}"):
        made: SceneSink = getattr(importlib.import_module(module), kind)(**options)
        return made
