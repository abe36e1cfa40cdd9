"""`StatusPage`: the simulators of a service, as a page and as JSON, for browsers on this machine alone.

It only shows. Pages of other sites, which the same browser may have open, get nothing: neither by a name of their own
for the loopback address, nor in a frame, nor by a script.
"""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from physgym.errors import ConfigError
from physgym.transport.tcp import LOOPBACK

PATIENCE = 5.0  # seconds for a request
READERS = 8  # at a time
COLUMNS = ("number", "state", "port", "holder", "seconds", "used")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
OURS = ("", "none", "same-origin")  # Sec-Fetch-Site of a person who types, follows the page, or has no such browser


class StatusPage:
    """A page on the loopback address, in a thread.

    Args:
        port: Where; 0 for a free one.
        address: Of the service, to be shown.
        most: How many simulators there may be.
        listed: Returns the simulators, as `SimulatorPool.listed` does.

    Attributes:
        url: Where to look.

    Raises:
        ConfigError: The port is taken, or none.
    """

    def __init__(self, port: int, address: str, most: int, listed: Callable[[], list[dict[str, Any]]]) -> None:
        if not 0 <= port <= 65535:
            raise ConfigError(f"the port of the status page is between 0 (any free one) and 65535, not {port}")
        try:
            self._server = _Server((LOOPBACK, port), _Reader)
        except OSError as error:
            raise ConfigError(f"the status page cannot listen on {LOOPBACK}:{port}: {error.strerror}") from error
        self._server.shown = lambda: {"address": address, "most": most, "simulators": _public(listed())}
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show nothing any more; calling it again does no harm."""
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A server that answers few readers at a time, and waits for none of them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self.shown: Callable[[], dict[str, Any]] = dict
        self._readers = threading.BoundedSemaphore(READERS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a reader in a thread, if there are not too many."""
        if self._readers.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a reader."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._readers.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader that is gone."""


class _Reader(BaseHTTPRequestHandler):
    """A request of a browser."""

    timeout = PATIENCE
    server: _Server
    server_version, sys_version = "physgym", ""

    def do_GET(self) -> None:
        """Show the page, or the same as JSON."""
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "this page is for browsers on this machine alone")
        elif self.headers.get("Sec-Fetch-Site", "") not in OURS:
            self._say(HTTPStatus.FORBIDDEN, "text/plain", "pages of other sites get nothing here")
        elif self.path == "/status.json":
            self._say(HTTPStatus.OK, "application/json", json.dumps(self.server.shown(), allow_nan=False))
        elif self.path == "/":
            self._say(HTTPStatus.OK, "text/html", _page(self.server.shown()))
        else:
            self._say(HTTPStatus.NOT_FOUND, "text/plain", "there are / and /status.json")

    def _say(self, status: HTTPStatus, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": len(data)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def _public(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what everybody on this machine may see: not the names of leases, which end them."""
    return [{name: one[name] for name in COLUMNS} for one in listed]


def _page(shown: dict[str, Any]) -> str:
    def row(values: Any, cell: str) -> str:
        return "".join(f"<{cell}>{html.escape(str(value))}</{cell}>" for value in values)

    rows = "".join(f"<tr>{row((one[name] for name in COLUMNS), 'td')}</tr>" for one in shown["simulators"])
    count, address = len(shown["simulators"]), html.escape(shown["address"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Simulators</title>
<style>body {{ font: 16px sans-serif; margin: 2em }} td, th {{ padding: 0.2em 1em; text-align: left }}</style></head>
<body><h1>Simulators</h1><p>{count} of {shown["most"]} at {address}</p>
<table><tr>{row(COLUMNS, "th")}</tr>{rows}</table></body></html>
"""
