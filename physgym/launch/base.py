"""The interface of what makes workers: a launcher, and a handle for each worker that it has started.

A launcher does not wait for a worker, and knows nothing of its connection: the worker connects by itself, through the
socket that it inherits or by dialling, as soon as it runs. So a worker may be a child process, be placed by a cluster
some time later, or be started by hand on another machine; and one may come or go while episodes run. The suite
`physgym.testing.launchers` says what holds for all of them.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from physgym.errors import WorkerError
from physgym.limits import LARGER_TIMEOUT
from physgym.placement import EnvFactory
from physgym.system.children import ParentPipe
from physgym.transport.base import Channel
from physgym.worker.main import WorkerStart


@dataclass(frozen=True)
class Order:
    """The order for a worker.

    Attributes:
        worker_start: What it needs to know.
        factories: What makes its environments, one each.
        parent_pipe: Says that this process is gone, for workers that inherit; None for others, which end with their
            connection.
        sock: The worker's end of its connection; None if it connects.
        memory: Descriptor of the shared memory; None if there is none.
        trial: The worker's end of a connection over which it tells of a trial of its first environment; None for none.
    """

    worker_start: WorkerStart
    factories: Sequence[EnvFactory]
    parent_pipe: ParentPipe | None = None
    sock: socket.socket | None = None
    memory: int | None = None
    trial: socket.socket | None = None


class WorkerHandle(ABC):
    """A worker that was started.

    Attributes:
        pid: Number of its process, if it is one of this machine.
        knows_end: Whether `poll` gives an exit status in the end. Else the end of its connection is all that is known.
    """

    pid: int | None = None
    knows_end = True

    @property
    def advice(self) -> str:
        """Return what to do where it is not ready in time."""
        return f"If environments take longer to build, give a larger timeout: {LARGER_TIMEOUT}"

    def connection(self) -> Channel | None:
        """Return its connection, where that is made by its launcher; None where it is not there, or made elsewhere."""
        return None

    def __str__(self) -> str:
        """Return in a few words which process it is."""
        return "elsewhere" if self.pid is None else f"pid {self.pid}"

    @abstractmethod
    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs, waits to run, or that is not known."""


Handle = TypeVar("Handle", bound=WorkerHandle)


class Launcher(ABC, Generic[Handle]):
    """Makes workers, and ends them.

    Attributes:
        inherits: Whether workers inherit descriptors of this process: a parent pipe, an end of a connection, shared
            memory. Those of another launcher connect.
    """

    inherits: ClassVar[bool] = True

    @abstractmethod
    def start(self, order: Order) -> Handle:
        """Start a worker, without waiting for it.

        Raises:
            ConfigError: What makes its environments cannot be sent to it.
            WorkerError: The system refuses.
        """

    @abstractmethod
    def end(self, handles: Sequence[Handle], patience: float, hang_up: Callable[[], None] = lambda: None) -> None:
        """End workers, and all that they have started; those that have ended are none of its business.

        A worker that does not inherit ends with its connection, at the latest; one that has not been started yet is not
        to be started any more.

        Args:
            handles: The workers.
            patience: Seconds that they get to end by themselves.
            hang_up: Closes their connections, upon which idle ones end.
        """


class DialInLauncher(Launcher[Handle]):
    """Gives orders to workers that come by themselves, with their connection, and may go at any time.

    The connection of one is that of its handle. What a worker has left undone others do.

    Attributes:
        on_difference: What to do with workers with another code of the simulation: "refuse" or "warn".
    """

    inherits = False
    on_difference = "refuse"

    @abstractmethod
    def first(self, timeout: float) -> int:
        """Wait for a worker that has no order; return how many environments it hosts.

        Raises:
            WorkerError: None has come in time.
        """

    @abstractmethod
    def callers(self) -> list[int]:
        """Return for each worker that waits for an order how many environments it hosts; each is named once."""

    @abstractmethod
    def news(self) -> list[str]:
        """Return what there is to say of workers that were not let in, once."""

    @abstractmethod
    def expect(self) -> None:
        """Take note that a worker was let go in whose place another process comes, which is to hear of the end too."""


def no_descriptors(index: int, error: OSError) -> WorkerError:
    """Return the error of a worker that the system does not let start."""
    return WorkerError(
        f"cannot start worker {index}: {error.strerror}. Every worker needs four file descriptors here; raise the "
        "limit (ulimit -n), use fewer workers, or close what is open"
    )
