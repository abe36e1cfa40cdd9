"""A token at the door of a web server of viser, which lets in everybody who knows its port."""

from __future__ import annotations

import hmac
import http
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from physgym.errors import ConfigError

_starting = threading.Lock()  # one server at a time starts, so that none gets the gate of another one
ANSWER = 5.0  # seconds for the server's answer to our own question


class Gate:
    """Lets in requests with a token in the address, and those with the cookie that they got then.

    Args:
        token: The secret.
        cookie: Name of the cookie, one for each port: browsers keep those of all ports of a host together.
    """

    def __init__(self, token: str, cookie: str) -> None:
        self._token, self._cookie = token.encode(), cookie

    def knows(self, address: str, cookies: str) -> tuple[bool, bool]:
        """Return whether a request is let in, and whether it is by its address, so that it needs the cookie.

        Args:
            address: Path and query of the request.
            cookies: Its header "Cookie".
        """
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
        given = query.get("token", [""])[-1]
        if self._same(given):
            return True, True
        each = (one.strip().partition("=") for one in cookies.split(";"))
        return any(name == self._cookie and self._same(value) for name, _, value in each), False

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    @property
    def header(self) -> str:
        """Return the header "Set-Cookie" of an answer to a request with the token."""
        return f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/"

    def guarded(self, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a handler of requests of `websockets` that asks for the token first."""

        def handle(connection: Any, request: Any) -> Any:
            known, by_address = self.knows(request.path, request.headers.get("Cookie", ""))
            if not known:
                return connection.respond(http.HTTPStatus.FORBIDDEN, "the address needs ?token=..., see the terminal\n")
            response = answer(connection, request)
            if by_address and response is not None:
                response.headers["Set-Cookie"] = self.header
            return response

        return handle

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put this before the server that starts in the block; viser itself has no way to ask for a token."""
        import websockets.asyncio.server as server

        with _starting:
            original = server.serve

            def serve(*arguments: Any, process_request: Any, **options: Any) -> Any:
                return original(*arguments, process_request=self.guarded(process_request), **options)

            server.serve = serve  # type: ignore[misc, assignment]
            try:
                yield
            finally:
                server.serve = original  # type: ignore[misc]

    def check(self, address: str) -> None:
        """Make sure that the server refuses a request without the token.

        Args:
            address: Its address without one, such as "http://127.0.0.1:8080".

        Raises:
            ConfigError: It answers, or there is no answer.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(address, timeout=ANSWER).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.FORBIDDEN:
                return
        except OSError as error:
            raise ConfigError(f"the page at {address} does not answer ({error})") from error
        raise ConfigError(
            f"the page at {address} would be open to everybody on this machine: this version of viser is not known. "
            "Install another one, or use --view vedo"
        )
