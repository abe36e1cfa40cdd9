"""A relay between two ends of TCP connections, which delays, throttles, stalls, cuts and half-closes what passes.

It needs no rights, so that what a bad link does can be tried anywhere.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque

TAKEN = 1 << 16


class Relay:
    """Passes on what comes to its address, to another one.

    Args:
        target: The other address.
        delay: Seconds that bytes take, each way.
        rate: Bytes per second, each way; None for no limit.
    """

    def __init__(self, target: tuple[str, int], delay: float = 0.0, rate: float | None = None) -> None:
        self.target, self.delay, self.rate = target, delay, rate
        self.stalled = threading.Event()  # set: nothing passes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._links: list[_Link] = []
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._closed:
            with contextlib.suppress(OSError):
                near, _ = self._listener.accept()
                far = socket.create_connection(self.target, 10)
                self._links.append(_Link(self, near, far))

    def cut(self) -> None:
        """Reset all connections."""
        for link in self._links:
            link.reset()

    def half_close(self) -> None:
        """End the way from the dialling end to the other one, and leave the way back."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.far.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._closed = True
        self.stalled.clear()
        self._thread.join(10)
        for link in self._links:
            link.reset()
            link.thread.join(10)
        self._listener.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Link:
    def __init__(self, relay: Relay, near: socket.socket, far: socket.socket) -> None:
        self.relay, self.near, self.far = relay, near, far
        self.over = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def reset(self) -> None:
        self.over = True

    def _run(self) -> None:
        ends = {self.near: self.far, self.far: self.near}
        waiting: dict[socket.socket, deque[tuple[float, bytes]]] = {end: deque() for end in ends}  # for each receiver
        ended: set[socket.socket] = set()
        free = dict.fromkeys(ends, 0.0)  # when the way to a receiver is free again
        for end in ends:
            end.setblocking(False)
        while not self.over and not (len(ended) == 2 and not any(waiting.values())):
            now = time.monotonic()
            readable = [end for end in ends if end not in ended and len(waiting[ends[end]]) < 64]
            found, _, _ = select.select(readable, [], [], 0.001 if any(waiting.values()) else 0.02)
            for end in found:
                try:
                    data = end.recv(TAKEN)
                except BlockingIOError:
                    continue
                except OSError:
                    self.over = True
                    break
                waiting[ends[end]].append((now + self.relay.delay, data))
                if not data:
                    ended.add(end)
            if self.relay.stalled.is_set():
                continue
            for end, parts in waiting.items():
                self._pass_on(end, parts, free)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, no goodbye
            end.close()

    def _pass_on(self, end: socket.socket, parts: deque[tuple[float, bytes]], free: dict[socket.socket, float]) -> None:
        now = time.monotonic()
        while parts and parts[0][0] <= now and free[end] <= now:
            due, data = parts.popleft()
            try:
                if not data:
                    end.shutdown(socket.SHUT_WR)
                    continue
                sent = end.send(data)
            except BlockingIOError:
                parts.appendleft((due, data))
                return
            except OSError:
                self.over = True
                return
            if sent < len(data):
                parts.appendleft((due, data[sent:]))
            if self.relay.rate is not None:
                free[end] = now + sent / self.relay.rate
