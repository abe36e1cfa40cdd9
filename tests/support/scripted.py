"""A fleet whose workers say what a test has them say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gymnasium.vector import AutoresetMode

from physgym.launch.base import Launcher, Order, WorkerHandle
from physgym.protocol.messages import Message, Ready, Role
from physgym.transport.auth import greet
from physgym.transport.sockets import SocketChannel
from physgym.transport.unix import Unix
from physgym.vector.fleet import FleetSettings, WorkerPool
from physgym.worker.env_group import EnvGroup
from tests.support import toys


def description() -> dict[str, Any]:
    return EnvGroup([toys.Line()], AutoresetMode.NEXT_STEP, lambda _: None).describe()


class ScriptedWorker(WorkerHandle):
    """The worker's end of a connection; nobody serves its requests but the test."""

    def __init__(self, order: Order) -> None:
        assert order.sock is not None
        self.pid, self.status = 4711, None
        self.channel = SocketChannel(order.sock.dup(), Role.WORKER)
        self._thread = threading.Thread(target=self._greet, args=(order,), daemon=True)
        self._thread.start()

    def _greet(self, order: Order) -> None:
        greet(self.channel, bytes.fromhex(order.worker_start.token), order.worker_start.worker, self.pid)
        self.channel.send(Ready(len(order.factories), description()))

    def asked(self) -> Message:
        """Return the next request."""
        return self._introduced().next()

    def say(self, *replies: Message, then: bytes = b"") -> None:
        """Send replies at once, each when the request has arrived that it answers, and other bytes behind them."""
        channel, data = self._introduced(), b""
        for reply in replies:
            while not channel.connection.ledger.pending:
                channel._inbox.extend(channel.receive())
            data += b"".join(map(bytes, channel.connection.send(reply)))
        channel.sock.sendall(data + then)

    def _introduced(self) -> SocketChannel:
        self._thread.join(5)
        self.channel.set_timeout(5)
        return self.channel

    def die(self) -> None:
        self.status = -9
        self.channel.close()

    def poll(self) -> int | None:
        return self.status

    def signal(self, number: int) -> None:
        pass


class Scripted(Launcher[ScriptedWorker]):
    """Launches scripted workers; `workers` are all that there were."""

    def __init__(self) -> None:
        self.workers: list[ScriptedWorker] = []

    def start(self, order: Order) -> ScriptedWorker:
        self.workers.append(ScriptedWorker(order))
        return self.workers[-1]

    def end(self, handles: Sequence[Any], patience: float, hang_up: Callable[[], None] = lambda: None) -> None:
        hang_up()
        for handle in handles:
            handle.die()


@contextmanager
def fleet(envs: int = 2, workers: int = 1) -> Iterator[tuple[WorkerPool, Scripted]]:
    """A fleet of scripted workers."""
    launcher = Scripted()
    settings = FleetSettings(AutoresetMode.NEXT_STEP, launcher, Unix(), 0, 5.0)
    pool = WorkerPool([toys.Line] * envs, workers, settings, lambda _: [], None)
    try:
        yield pool, launcher
    finally:
        pool.kill()
