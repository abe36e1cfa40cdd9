"""The connections of a fleet, and what is to be noticed of them."""

from __future__ import annotations

import select

from physgym.vector.workers import RemoteWorker


class Watch:
    """Polls the connections of workers.

    Attributes:
        poll: Of all connections; a single worker's own is `RemoteWorker.poll`.
        workers: Whose connection a descriptor is.
    """

    def __init__(self) -> None:
        self.poll = select.poll()
        self.workers: dict[int, RemoteWorker] = {}

    def add(self, worker: RemoteWorker) -> None:
        """Notice what a worker sends from now on."""
        assert worker.channel is not None
        self.workers[worker.channel.fileno()] = worker
        worker.poll = select.poll()
        for poll in (worker.poll, self.poll):
            poll.register(worker.channel.fileno(), worker.channel.wants)

    def want(self, worker: RemoteWorker) -> None:
        """Notice as well when a worker's connection takes more, as long as something waits to be sent."""
        assert worker.channel is not None
        for poll in (worker.poll, self.poll):
            poll.modify(worker.channel.fileno(), worker.channel.wants)

    def remove(self, worker: RemoteWorker) -> None:
        """Notice nothing more of a worker; calling it again does no harm."""
        if worker.channel is not None and self.workers.pop(worker.channel.fileno(), None) is not None:
            self.poll.unregister(worker.channel.fileno())

    def clear(self) -> None:
        """Notice nothing more of any worker."""
        self.workers.clear()
        self.poll = select.poll()
