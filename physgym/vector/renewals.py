"""Workers that are renewed after so many episodes: a process that has ended gives back what a simulation has leaked."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable

from physgym.checks import integer
from physgym.errors import ConfigError, PhysGymError
from physgym.launch.base import DialInLauncher
from physgym.protocol.ledger import Pending
from physgym.protocol.messages import Close, Message
from physgym.vector.closing import CLOSE_TIMEOUT, await_closed
from physgym.vector.fleet import WorkerPool
from physgym.vector.handshake import Handshake
from physgym.vector.workers import Fault, RemoteWorker, Worker


def check_renewed(recycle: int | None, count: int | None) -> None:
    """Check that there are workers to renew, where they are to be renewed.

    Args:
        recycle: Episodes after which one is renewed; None for never.
        count: The number of workers, 0 for none; None where that is found out.

    Raises:
        ConfigError: There are none, or the number of episodes is none.
    """
    if recycle is None:
        return
    integer("recycle", recycle, 1, hint=": episodes after which a worker is renewed; leave it out for never")
    if count == 0:
        raise ConfigError(
            f"recycle={recycle} renews worker processes, and num_workers=0 has none; leave one of them out"
        )


class Renewals:
    """Ends workers of a fleet after so many episodes, and starts each again, while the others continue.

    A process takes the place of another one only when that has ended, so that files, ports and licences are free. A
    worker that has connected is let go; the program that keeps it running starts another one, which connects.

    Args:
        fleet: The workers.
        episodes: Of rollouts, after which a worker is renewed; None for never.
        lost: Takes note of one that was let go.

    Attributes:
        ended: Workers that are to be started.
    """

    def __init__(self, fleet: WorkerPool, episodes: int | None, lost: Callable[[Worker], None]) -> None:
        self._fleet, self._episodes, self._lost = fleet, episodes, lost
        self._closing: set[RemoteWorker] = set()
        self.ended: list[RemoteWorker] = []
        self._starting: list[tuple[RemoteWorker, Handshake]] = []

    @property
    def wanted(self) -> bool:
        """Return whether workers are renewed at all."""
        return self._episodes is not None

    @property
    def under_way(self) -> bool:
        """Return whether a worker has ended, and is not back yet."""
        return bool(self.ended or self._starting)

    def room(self, worker: Worker) -> int:
        """Return how many episodes a worker is still to be given."""
        if self._episodes is None or not isinstance(worker, RemoteWorker):
            return sys.maxsize
        return max(0, self._episodes - worker.episodes)

    def begin(self, worker: RemoteWorker) -> None:
        """Ask a worker that owes nothing to close its environments."""
        self._fleet.post(worker, Close(again=True))
        self._closing.add(worker)

    def take(self, worker: Worker, reply: Message | Fault, request: Pending | None) -> bool:
        """Deal with the end of a worker that is renewed; return whether the reply was that.

        Args:
            worker: From whom the reply is.
            reply: The reply, which may be to an earlier request.
            request: What it answers; None where the worker is gone.
        """
        if request is not None and request.kind is not Close:
            return False
        if worker not in self._closing:  # maybe its end is noticed once more
            return worker in self.ended or any(worker is one for one, _ in self._starting)
        assert isinstance(worker, RemoteWorker)
        self._closing.discard(worker)
        if isinstance(reply, Fault):
            warnings.warn(f"{reply.error}\n\nIt was to be renewed, which continues", RuntimeWarning, stacklevel=4)
        self._end(worker)
        return True

    def _end(self, worker: RemoteWorker) -> None:
        """End a worker, and note that it is to be started."""
        self._fleet.end(worker)
        launcher = self._fleet.settings.launcher
        if isinstance(launcher, DialInLauncher):
            launcher.expect()
            self._lost(worker)
        else:
            self.ended.append(worker)

    def go_on(self) -> list[tuple[RemoteWorker, PhysGymError]]:
        """Start workers that have ended, and take in those that are ready; return those that do not start, and why."""
        failed: list[tuple[RemoteWorker, PhysGymError]] = []
        alone = bool(self._fleet.settings.port)  # at which one of them can be waited for at a time
        while self.ended and not (alone and self._starting):
            worker = self.ended.pop(0)
            try:
                self._starting.append((worker, self._fleet.begin(worker, [None] * len(worker.envs))))
            except PhysGymError as error:
                failed.append((worker, error))
        for worker, handshake in [*self._starting]:
            try:
                handshake.go_on(0.0)
                if not handshake.done:
                    continue
                self._fleet.admit(worker)
            except PhysGymError as error:
                self._fleet.end(worker)
                failed.append((worker, error))
            handshake.close()
            self._starting.remove((worker, handshake))
        return failed

    def pause(self) -> None:
        """Stop where the rollout ends: those that are not back are started with the next one, or by `bring_back`."""
        now = time.monotonic()
        await_closed([*self._closing], now + CLOSE_TIMEOUT, now + CLOSE_TIMEOUT)
        while self._closing:
            self._end(self._closing.pop())
        while self._starting:
            worker, handshake = self._starting.pop()
            handshake.close()
            self._end(worker)

    def bring_back(self) -> None:
        """Start workers that have ended, and wait for them.

        Raises:
            WorkerError: One does not come up.
        """
        while self.ended:
            worker = self.ended[0]
            self._fleet.restart(worker, [None] * len(worker.envs))
            del self.ended[0]
