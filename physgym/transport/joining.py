"""The way of a worker that connects to a parent which may be crowded by others."""

from __future__ import annotations

import time
from collections.abc import Callable

from physgym.transport.auth import greet
from physgym.transport.base import Channel, PeerGone

REDIAL = 0.05  # seconds until a worker that was turned away dials again


def join(dial: Callable[[float], Channel], timeout: float, token: bytes, worker: int, pid: int) -> Channel:
    """Connect to a parent and shake hands; where it was crowded by others, again and again.

    Args:
        dial: Connects to it within so many seconds.
        timeout: Seconds for all of it.
        token: The secret.
        worker: Index of this worker.
        pid: Its process.

    Raises:
        ProtocolError: The parent is another one, or says nothing.
        PeerGone: It turns this worker away.
        OSError: Nobody listens.
    """
    deadline = time.monotonic() + timeout
    while True:
        remaining = max(REDIAL, deadline - time.monotonic())
        channel = dial(remaining)
        channel.set_timeout(remaining)
        try:
            greet(channel, token, worker, pid)
            return channel
        except PeerGone:
            channel.close()
            if time.monotonic() >= deadline:
                raise
        except BaseException:
            channel.close()
            raise
        time.sleep(REDIAL)
