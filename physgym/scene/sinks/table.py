"""The table of sinks: what shows scenes, by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from physgym.checks import one_of
from physgym.errors import ConfigError, needs
from physgym.scene.sinks.base import SceneSink


@dataclass(frozen=True)
class SinkEntry:
    """A row of the table.

    Attributes:
        place: Its class, as "module:Class".
        title: What it is, for people; empty for one that helps are to leave out.
        package: What has to be installed for it.
        extra: Of physgym, which installs that.
        with_run: Whether a run can start with it: it needs no arguments.
    """

    place: str
    title: str
    package: str
    extra: str = ""
    with_run: bool = True


SINKS: Mapping[str, SinkEntry] = {
    "vedo": SinkEntry("physgym.scene.sinks.vedo_window:VedoWindow", "a window", "vedo"),
    "web": SinkEntry("physgym.scene.sinks.web_page:WebPage", "a page in a browser", "viser", "web"),
    "rerun": SinkEntry(
        "physgym.scene.sinks.rerun_recording:RerunRecording", "a recording", "rerun", "rerun", with_run=False
    ),
    "count": SinkEntry("physgym.scene.sinks.counting:CountingSink", "", "numpy"),
}


WITH_RUN = tuple(name for name, one in SINKS.items() if one.with_run)


def titles_of(names: Collection[str]) -> dict[str, str]:
    """Return some names with what they are, for people."""
    return {name: one.title for name, one in SINKS.items() if name in names and one.title}


def choices_text(names: Collection[str]) -> str:
    """Return some names with what they are, as the help of an option has it."""
    return "; ".join(f"{name}, {title}" for name, title in titles_of(names).items())


def make_sink(name: str, **options: Any) -> SceneSink:
    """Return a sink of a name, which is not open yet.

    Args:
        name: One of `SINKS`.
        options: Arguments of its class, such as the environments `chosen`.

    Raises:
        ConfigError: There is none, an option is unknown or lacks, or a package is missing.
    """
    one_of("view", name, tuple(SINKS))
    entry = SINKS[name]
    module, _, kind = entry.place.partition(":")
    with needs(entry.package, entry.extra, f"--view {name}"):
        made_by = getattr(importlib.import_module(module), kind)
        known = inspect.signature(made_by).parameters
        if unknown := sorted(options.keys() - known.keys()):
            raise ConfigError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        if missing := [one for one, its in known.items() if its.default is its.empty and one not in options]:
            raise ConfigError(f"{name} needs the option {', '.join(missing)}")
        made: SceneSink = made_by(**options)
        return made
