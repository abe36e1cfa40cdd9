"""`LiveView`: how a run is shown while it runs, and the process that shows it."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from physgym.checks import one_of
from physgym.errors import ConfigError
from physgym.scene.sinks.table import WITH_RUN
from physgym.system.children import Child
from physgym.viewing.places import new_entry
from physgym.viewing.server import ViewServer
from physgym.viewing.views import SceneViews

READY = 30.0  # seconds that a window or page has to open, before the run goes on
GOODBYE = 3.0  # seconds that it has to close
LOOK = 0.02
ATTEMPTS = 3


@dataclass(frozen=True)
class LiveView:
    """The way in which a run is shown while it runs.

    Attributes:
        sink: What opens with the run, of `physgym.scene.sinks.table`: "vedo", a window, or "web", a page in a browser;
            None for nothing.
        places: Folders by which ``physgym watch`` finds the run, next to that of its dataset.

    Raises:
        ConfigError: There is no such sink.
    """

    sink: str | None = None
    places: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.sink is not None:
            one_of("view", self.sink, WITH_RUN)


UNSEEN = LiveView()
ViewLike: TypeAlias = LiveView | str | None


def view_of(view: ViewLike) -> LiveView:
    """Return how a run is shown, of what a user gives.

    Raises:
        ConfigError: There is no such sink.
    """
    return view if isinstance(view, LiveView) else LiveView(view)


def show(views: SceneViews, view: LiveView, title: str, places: Sequence[str | Path] = ()) -> None:
    """Let a run be watched from elsewhere, and open what it is shown in. What does not open ends no run.

    Args:
        views: Its frames.
        view: How it is shown.
        title: What it is.
        places: More folders by which it is found; those in a storage are left out.
    """
    known = [place for place in (*view.places, *places) if "://" not in str(place)]
    if not known and view.sink is None:
        return
    try:
        server = _served(views, title, known)
    except (OSError, ConfigError) as error:
        warnings.warn(f"nobody can watch this run: {error}", RuntimeWarning, stacklevel=3)
        return
    if view.sink is not None:
        try:
            _open(views, server, view.sink)
        except OSError as error:
            warnings.warn(f"the viewer does not start: {error}", RuntimeWarning, stacklevel=3)


def _served(views: SceneViews, title: str, places: Sequence[str | Path]) -> ViewServer:
    """Return a server, which is found by some folders."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):  # the last one to end removes the folder of all sockets
            return ViewServer(views, title, new_entry(title, places) if places else None)
    return ViewServer(views, title, new_entry(title, places) if places else None)


def _open(views: SceneViews, server: ViewServer, sink: str) -> None:
    """Start the process that shows the run, and wait until it does."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "physgym.scene.viewer", sink, str(theirs.fileno())]
        try:
            child = Child(command, pass_fds=[theirs.fileno()])
        except BaseException:
            ours.close()
            raise
    server.adopt(ours)

    def close() -> None:
        until = time.monotonic() + GOODBYE
        while child.process.poll() is None and time.monotonic() < until:
            time.sleep(LOOK)
        child.end()

    views.closing_after(close)
    until = time.monotonic() + READY
    while not server.watching:
        if child.process.poll() is not None:
            warnings.warn("the viewer has ended; the run continues without it", RuntimeWarning, stacklevel=4)
            return
        if time.monotonic() > until:
            return
        time.sleep(LOOK)
