"""The start of workers: ordered from a launcher, connected by a transport, and waited for."""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from gymnasium.vector import AutoresetMode

from physgym.checks import one_of
from physgym.errors import ConfigError
from physgym.launch.base import DialInLauncher, Launcher, Order, no_descriptors
from physgym.placement import EnvFactory
from physgym.system import process_tree as tree
from physgym.system.children import ParentPipe
from physgym.system.cores import Pinning, pinned_cores
from physgym.transport.auth import challenge
from physgym.transport.base import Listener, PeerGone, Transport
from physgym.transport.table import entry_of
from physgym.vector.handshake import Handshake
from physgym.vector.watch import Watch
from physgym.vector.workers import RemoteWorker
from physgym.viewing.views import SceneViews
from physgym.worker.main import WorkerStart

log = logging.getLogger(__name__)
LONGEST_TIMEOUT = 1e7


@dataclass(frozen=True)
class FleetSettings:
    """Settings of the start of workers.

    Attributes:
        autoreset_mode: What happens when an episode ends.
        launcher: What starts them.
        transport: How they are connected.
        port: TCP port, 0 for a free one.
        timeout: Seconds to wait for an answer.
        views: What viewers see of the environments.
        pinning: Whether each worker has a core or a memory node of its own, see `physgym.system.cores.pinned_cores`.
    """

    autoreset_mode: AutoresetMode
    launcher: Launcher[Any]
    transport: Transport
    port: int
    timeout: float
    views: SceneViews = field(default_factory=lambda: SceneViews(0))
    pinning: Pinning | None = None

    def __post_init__(self) -> None:
        one_of("pinning", self.pinning, (None, *get_args(Pinning)))


class Starter:
    """Starts workers.

    Args:
        factories: One callable per environment; the list may grow.
        settings: How to start them.
        memory: Descriptor of the shared memory, None if arrays are sent in messages.
        watch: Takes their connections.
    """

    def __init__(self, factories: list[EnvFactory], settings: FleetSettings, memory: int | None, watch: Watch) -> None:
        self._factories, self._settings, self._memory, self._watch = factories, settings, memory, watch

    def start(self, workers: Sequence[RemoteWorker], seeds: Sequence[int | None] | None = None) -> None:
        """Start workers, and wait until each has connected, proved itself and built its environments.

        Args:
            workers: Which ones.
            seeds: For the next reset of each environment of one that takes the place of another.

        Raises:
            ConfigError: The port is taken, or what makes the environments cannot be sent.
            WorkerError: One died or is not ready in time, or a constructor raised.
        """
        self.begin(workers, self._watch, seeds).run()

    def begin(
        self, workers: Sequence[RemoteWorker], watch: Watch, seeds: Sequence[int | None] | None = None
    ) -> Handshake:
        """Start workers without waiting for them; return the handshake, which is to be gone on with, and closed.

        Args:
            workers: Which ones.
            watch: Takes their connections.
            seeds: As for `start`.

        Raises:
            ConfigError: As in `start`.
            WorkerError: The system refuses to start one.
        """
        settings = self._settings
        listener = None if isinstance(settings.launcher, DialInLauncher) else settings.transport.listen(settings.port)
        try:
            deadline = time.monotonic() + settings.timeout
            for worker in workers:
                if worker.handle is None:
                    self._order(worker, listener, watch, seeds)
                else:  # it was ordered for a trial
                    watch.add(worker)
            return Handshake(workers, listener, watch, settings.timeout, deadline)
        except BaseException:
            if listener is not None:
                listener.close()
            raise

    def order_trial(self, worker: RemoteWorker, trial: socket.socket) -> None:
        """Start a worker that inherits its connection, and tells of a trial of its first environment.

        Args:
            worker: Which one; `begin` takes it as one that was started already.
            trial: Its end of the connection over which it tells of it.

        Raises:
            ConfigError: What makes its environments cannot be sent.
            WorkerError: The system refuses to start it.
        """
        self._order(worker, None, self._watch, None, trial)

    def _order(
        self,
        worker: RemoteWorker,
        listener: Listener | None,
        watch: Watch,
        seeds: Sequence[int | None] | None,
        trial: socket.socket | None = None,
    ) -> None:
        settings = self._settings
        comes = isinstance(settings.launcher, DialInLauncher)
        log.info("worker %d begins: environments %d to %d", worker.index, worker.envs.start, worker.envs[-1])
        worker.token = secrets.token_bytes(32)  # for this start alone: one that dials late takes nobody's place
        worker_start = WorkerStart(
            entry_of(settings.transport),
            None if listener is None else listener.address,
            worker.token.hex(),
            worker.index,
            worker.envs.start,
            len(self._factories),
            settings.autoreset_mode.name,
            settings.timeout,
            [str(Path(entry).resolve()) for entry in sys.path],
            None if seeds is None else list(seeds),
            tree.new_mark(),
            pinned_cores(settings.pinning, worker.index) if settings.launcher.inherits else None,
        )
        try:
            worker.parent_pipe = ParentPipe() if settings.launcher.inherits else None
            channel, theirs = (None, None) if comes else settings.transport.pair()
        except OSError as error:
            raise no_descriptors(worker.index, error) from error
        if channel is not None:
            worker.connect(channel)
        factories = [self._factories[i] for i in worker.envs]
        with contextlib.closing(theirs) if theirs is not None else contextlib.nullcontext():
            order = Order(worker_start, factories, worker.parent_pipe, theirs, self._memory, trial)
            worker.handle = settings.launcher.start(order)
        worker.ready = None
        worker.since = time.monotonic()
        if channel is not None:
            with contextlib.suppress(PeerGone):  # killed already, which shows when it is read
                challenge(channel)
            watch.add(worker)


def shares(num_envs: int, num_workers: int) -> list[range]:
    """Return the indices of the environments of each worker."""
    bounds = [round(i * num_envs / num_workers) for i in range(num_workers + 1)]
    return [range(first, last) for first, last in itertools.pairwise(bounds)]


def checked_timeout(timeout: float) -> float:
    """Return a timeout in seconds, after a check.

    Raises:
        ConfigError: It is none.
    """
    timeout = float(timeout)
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ConfigError(f"timeout must be positive seconds, at most {LONGEST_TIMEOUT:.0f}, not {timeout}")
    return timeout


def checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """Return a mode of the reset when an episode ends, after a check.

    Raises:
        ConfigError: There is none of this name.
    """
    if mode not in list(AutoresetMode) and mode not in [known.value for known in AutoresetMode]:
        raise ConfigError(f"autoreset_mode must be one of {[known.value for known in AutoresetMode]}, not {mode!r}")
    return AutoresetMode(mode)
