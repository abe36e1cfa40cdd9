"""`WebPage`: scenes on a page in the browser, by viser; through the forwarded port of a remote machine as well."""

from __future__ import annotations

import contextlib
import io
import logging
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from physgym.checks import integer
from physgym.errors import ConfigError, needs
from physgym.scene.inputs import INPUT_KINDS, InputKind
from physgym.scene.sinks.base import SceneSink
from physgym.scene.sinks.gate import Gate
from physgym.scene.sinks.page_layout import PageLayout
from physgym.scene.sinks.page_panels import PREVIOUS, ControlPanel, moved_on, numbers_of
from physgym.scene.sinks.page_scene import PageScene
from physgym.transport.tcp import LOOPBACK

log = logging.getLogger(__name__)
BANDWIDTH = 8e6  # bytes of arrays in a second; more is left out, the newest comes


class WebPage(SceneSink):
    """A page that shows chosen environments in one space, and their curves and images next to it.

    It is reached from this machine alone, by an address with a token. Meshes of many points are thinned, positions of
    coloured ones are rounded to 1/65535 of their size; the page says so. More than 8 MB/s are not sent: pictures are
    left out then, the newest one is shown.

    Args:
        chosen: Environments to show.
        host: Address that it listens on; another one than that of this machine itself opens it to the network.
        port: Port; 0 for any that is free.
        token: Secret of the address; a new one by default.

    Attributes:
        sent: Bytes of arrays that were sent.
    """

    name: ClassVar[str] = "web"
    shows: ClassVar[tuple[InputKind, ...]] = INPUT_KINDS

    def __init__(
        self,
        chosen: Sequence[int] | None = None,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        token: str | None = None,
    ) -> None:
        super().__init__(chosen)
        self._where = host, integer("port", port, 0), secrets.token_urlsafe(16) if token is None else token
        self._server: Any = None
        self._panel: ControlPanel | None = None
        self._scenes: dict[int, PageScene] = {}
        self._layout: PageLayout | None = None
        self._late: dict[int, Mapping[str, Any]] = {}
        self._next = 0.0  # when more may be sent
        self.sent = 0

    def _opened(self) -> str:
        with needs("viser", "web", "--view web"):
            import viser
        host, port, token = self._where
        port = port or _free_port(host)
        _check_free(host, port)
        gate = Gate(token, f"physgym_{port}")
        with gate.installed(), contextlib.redirect_stdout(io.StringIO()):
            self._server = viser.ViserServer(host, port, label="physgym", verbose=False)
        if self._server.get_port() != port:
            raise ConfigError(f"port {port} of {host} was taken meanwhile; choose another one, or none")
        gate.check(f"http://{host}:{port}/")
        self._server.scene.world_axes.visible = False
        self._server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        runs = self.controls is not None
        self._panel = ControlPanel(self._server, self.title, self.chosen, self.environments, runs=runs)
        return f"http://{host}:{port}/?token={token}"

    def _shown(self, environment: int, snapshot: Mapping[str, Any]) -> None:
        waits = bool(self._late) and next(iter(self._late)) != environment  # others come first
        if waits or time.monotonic() < self._next:
            self._late[environment] = snapshot
            return
        self._late.pop(environment, None)
        if environment not in self._scenes:
            assert self._panel is not None  # made with the server
            give = self._panel.give if self.controls is not None and self.controls.takes_inputs else None
            self._scenes[environment] = PageScene(self._server, environment, self._panel.pictures, give)
        scene = self._scenes[environment]
        before, thinned = scene.sent, scene.thinned
        with self._server.atomic():
            scene.update(snapshot)
            self._place(snapshot)
        scene.update_side(snapshot)
        self.sent += scene.sent - before
        self._next = max(self._next, time.monotonic()) + (scene.sent - before) / BANDWIDTH
        if scene.thinned != thinned:
            self._say_thinned()

    def _place(self, snapshot: Mapping[str, Any]) -> None:
        """Give each environment its place, and the camera its own when there is a first one."""
        if "bounds" not in snapshot["camera"]:
            return
        layout = PageLayout.of(snapshot["camera"], tuple(self._scenes), self._layout)
        if layout != self._layout:
            first, self._layout = self._layout is None, layout
            for environment, scene in self._scenes.items():
                scene.place(layout.position(environment))
            layout.look(self._server, now=first)

    def _say_thinned(self) -> None:
        names = sorted({name for scene in self._scenes.values() for name in scene.thinned})
        text = f"shown with fewer points than there are: {', '.join(names)}" if names else ""
        if text:
            log.warning("the web page: %s", text)
        if self._panel is not None:
            self._panel.say(text)

    def _polled(self) -> bool:
        for what, value in [] if self._panel is None else self._panel.asked():
            if what == "run" and self.controls is not None:
                {"pause": self.controls.pause, "resume": self.controls.resume, "step": self.controls.step}[value]()
            elif what == "input" and self.controls is not None:
                self.controls.give(*value)
            elif what == "others":
                self.choose(moved_on(self.chosen, self.environments, -1 if value == PREVIOUS else 1))
            elif what == "choose":
                self.choose(numbers_of(value))
        while self._late and time.monotonic() >= self._next:  # those that wait longest come first
            environment = next(iter(self._late))
            snapshot = self._late[environment]
            self._show_late({environment: snapshot})
            if self._late.get(environment) is snapshot:  # it cannot be shown, or is not chosen any more
                del self._late[environment]
        return True

    def choose(self, environments: Sequence[int]) -> None:
        """Show other environments; those that are not there are left out, and nothing changes if none is left."""
        super().choose(environments)
        if self._panel is not None:
            self._panel.show_chosen(self.chosen)
        for environment in [one for one in self._scenes if one not in self.chosen]:
            self._scenes.pop(environment).close()
            self._late.pop(environment, None)

    def _closed(self) -> None:
        if self._server is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # which viser writes to when it stops
                self._server.stop()


def _check_free(host: str, port: int) -> None:
    """Raise where a port is taken: viser would take another one without a word.

    Raises:
        ConfigError: It is.
    """
    try:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"the web page cannot use port {port} of {host}: {error.strerror}; choose another one"
        ) from error


def _free_port(host: str) -> int:
    try:
        with socket.socket() as one:
            one.bind((host, 0))
            return int(one.getsockname()[1])
    except OSError as error:
        raise ConfigError(f"the web page cannot listen on {host}: {error.strerror}") from error
