"""An S3 server on this machine, and a way to it on which connections break where a test wants them to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable


class Proxy:
    """Forwards connections to a server on this machine; the server answers one request on each.

    Attributes:
        port: Where it listens.
        plan: What becomes of the next connections, one each: None passes; ("refuse",) is closed at once; ("up", n)
            breaks off after n bytes of the request, ("down", n) of the answer; ("lose",) passes the request and breaks
            off instead of the answer; ("flip", n) changes byte n of the answer.
        away: Whether all connections are refused.
        allowed: How many more connections are not refused; None for all.
        refused: Called after a connection was refused.
        requests: First lines of all requests that got here.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.plan: deque[tuple | None] = deque()
        self.requests: list[str] = []
        self.away = False
        self.allowed: int | None = None
        self.refused: Callable[[], None] = lambda: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                fault = self.plan.popleft() if self.plan else None
                if self.allowed is not None:
                    self.away, self.allowed = self.allowed == 0, max(0, self.allowed - 1)
                if self.away or fault == ("refuse",):
                    connection.close()
                    self.refused()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection, fault))
                thread.start()
                self._threads.append(thread)
        self._listener.close()

    def _serve(self, client: socket.socket, fault: tuple | None) -> None:
        kind, place = (*(fault or ("pass",)), 0)[:2]
        with (
            client,
            socket.create_connection(("127.0.0.1", self._target), timeout=30) as server,
            selectors.DefaultSelector() as ready,
        ):
            client.settimeout(30)
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            passed = {client: 0, server: 0}
            while not self._closed.is_set():
                for key, _ in ready.select(0.1):
                    source, sink = key.fileobj, key.data
                    try:
                        data = source.recv(1 << 16)
                    except ConnectionError:
                        data = b""
                    if not data:
                        return
                    if source is client and not passed[client]:
                        self.requests.append(data.split(b"\r\n", 1)[0].decode())
                    start, passed[source] = passed[source], passed[source] + len(data)
                    cut = (kind, source) in (("up", client), ("down", server)) and passed[source] > place
                    if cut:
                        data = data[: max(0, place - start)]
                    if kind == "lose" and source is server and not data.startswith(b"HTTP/1.1 100"):
                        return
                    if kind == "flip" and source is server and start <= place < passed[source]:
                        data = bytearray(data)
                        data[place - start] ^= 1
                    try:
                        sink.sendall(data)
                    except ConnectionError:
                        return
                    if cut:
                        return

    def reset(self) -> None:
        """Pass everything again."""
        self.plan.clear()
        self.requests.clear()
        self.away, self.allowed, self.refused = False, None, lambda: None

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
