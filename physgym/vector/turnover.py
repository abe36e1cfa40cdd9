"""Workers that join and leave while episodes run."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

from physgym.errors import ConfigError, PhysGymError
from physgym.launch.base import DialInLauncher
from physgym.placement import EnvFactory
from physgym.single import single_of
from physgym.vector.fleet import WorkerPool
from physgym.vector.handshake import Handshake
from physgym.vector.renewals import Renewals
from physgym.vector.workers import RemoteWorker, Worker


class Turnover:
    """Workers of a fleet that are to join or to leave.

    Any thread may say so. It happens in the thread that runs the episodes, between two messages: a worker that leaves
    completes those that it was given.

    Args:
        fleet: The workers.
        recycle: Episodes after which a worker is renewed; None for never.

    Attributes:
        renewals: Workers that are renewed.
    """

    def __init__(self, fleet: WorkerPool, recycle: int | None = None) -> None:
        self._fleet, launcher = fleet, fleet.settings.launcher
        self._dial_in: DialInLauncher[Any] | None = launcher if isinstance(launcher, DialInLauncher) else None
        self._joining: deque[tuple[int, Sequence[EnvFactory]]] = deque()
        self._coming: list[tuple[RemoteWorker, Handshake]] = []
        self._leaving: set[int] = set()
        self._free: list[range] = []  # indices of environments of workers that are gone
        self._next = len(fleet.workers)  # no index is used again
        self.renewals = Renewals(fleet, recycle, self.lost)

    def join(self, factories: Sequence[EnvFactory]) -> int:
        """Note a worker that is to join; return its index.

        Raises:
            ConfigError: It has no environment, or the environments of the fleet are in this process.
        """
        if not factories:
            raise ConfigError("a worker that joins needs at least one environment")
        if self._fleet.local:
            raise ConfigError(
                "the environments are in this process (num_workers=0), where no worker can join them; give num_workers"
            )
        index, self._next = self._next, self._next + 1
        self._joining.append((index, factories))
        return index

    @property
    def is_open(self) -> bool:
        """Return whether workers come by themselves, and may go at any time."""
        return self._dial_in is not None

    def news(self) -> list[str]:
        """Return what there is to say of workers that were not let in, once."""
        return [] if self._dial_in is None else self._dial_in.news()

    def lost(self, worker: Worker) -> None:
        """Take note that a worker has gone by itself."""
        self._leaving.discard(worker.index)
        self._free.append(worker.envs)
        if worker not in self._fleet.hosts:
            self._fleet.workers.remove(worker)

    def leave(self, index: int) -> None:
        """Note that a worker is to leave.

        Raises:
            ConfigError: There is none of this index.
        """
        present = [worker.index for worker in self._fleet.workers if isinstance(worker, RemoteWorker)]
        if index not in present and index not in [joining for joining, _ in self._joining]:
            raise ConfigError(f"no worker has index {index}; there are {', '.join(map(str, present)) or 'none'}")
        self._leaving.add(index)

    def admit(self) -> None:
        """Start the workers that are to join, and take in those that are ready; nobody waits for the others."""
        if self._dial_in is not None:
            self._let_in(self._dial_in)
        while self._joining:
            index, factories = self._joining.popleft()
            if index in self._leaving:
                self._leaving.discard(index)
                continue
            try:
                self._coming.append(self._fleet.invite(index, factories, self._place(len(factories))))
            except PhysGymError as error:
                _warn(index, error)
        for worker, handshake in [*self._coming]:
            try:
                handshake.go_on(0.0)
                if not handshake.done:
                    continue
                self._fleet.admit(worker)
            except PhysGymError as error:
                self._turn_away(worker, handshake)
                _warn(worker.index, error)
            else:
                handshake.close()
                self._coming.remove((worker, handshake))

    def _let_in(self, launcher: DialInLauncher[Any]) -> None:
        """Have workers join that have come by themselves."""
        alone = single_of(self._fleet.description["metadata"]) is not None
        for count in launcher.callers():
            self.join([self._fleet.factories[0]] * (1 if alone else count))
        for text in self.news():
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _place(self, count: int) -> range | None:
        """Return the indices of so many environments of a worker that is gone; None if there are none."""
        found = next((envs for envs in self._free if len(envs) == count), None)
        if found is not None:
            self._free.remove(found)
        return found

    def _turn_away(self, worker: RemoteWorker, handshake: Handshake) -> None:
        handshake.close()
        self._coming.remove((worker, handshake))
        self._free.append(worker.envs)
        self._fleet.end(worker)
        self._fleet.workers.remove(worker)

    def leaves(self, worker: Worker) -> bool:
        """Return whether a worker is to get no more episodes."""
        return worker.index in self._leaving

    def let_go(self, worker: Worker) -> None:
        """End a worker that leaves, once it owes nothing."""
        if isinstance(worker, RemoteWorker) and worker.index in self._leaving and not worker.ledger.pending:
            self._leaving.discard(worker.index)
            self._fleet.dismiss(worker)

    def finish(self) -> None:
        """End workers that leave and owe nothing; turn away those that are not ready by now."""
        self.renewals.pause()
        for coming in [*self._coming]:
            if self._dial_in is not None:
                self._dial_in.expect()
            self._turn_away(*coming)
        for worker in [*self._fleet.workers]:
            self.let_go(worker)


def _warn(index: int, error: PhysGymError) -> None:
    warnings.warn(f"worker {index} does not join: {error}", RuntimeWarning, stacklevel=3)
