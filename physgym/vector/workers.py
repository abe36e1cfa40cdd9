"""The workers of a vector env, as its process sees them."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import Any

from physgym.errors import PhysGymError, WorkerError, WorkerLost
from physgym.launch.base import WorkerHandle
from physgym.launch.processes import exit_text
from physgym.protocol.buffers import IDLE
from physgym.protocol.ledger import Ledger, Pending
from physgym.protocol.messages import Failure, Ready, Rollout
from physgym.system.children import ParentPipe
from physgym.transport.base import Channel
from physgym.vector.remote_errors import remote_error
from physgym.worker.env_group import EnvGroup
from physgym.worker.failures import RequestFailed


@dataclass(frozen=True)
class Fault:
    """A fault of a worker, in place of its reply.

    Attributes:
        error: The exception to raise.
        dead: Whether the worker is gone.
        unanswered: The request that failed or, if the worker is gone, all that it owed an answer to, oldest first. Only
            the `Pending.rest` of each is unanswered.
    """

    error: PhysGymError
    dead: bool
    unanswered: tuple[Pending, ...] = ()


class Worker:
    """A worker.

    Args:
        index: Which one this is.
        envs: Indices of its environments.

    Attributes:
        ledger: What it owes: the ledger of its connection, an empty one while it has none.
        since: When it was last heard of or began to owe an answer.
        unfinished: Whether a message is half sent or half taken in: still so afterwards where Ctrl-C came in between.
    """

    def __init__(self, index: int, envs: range) -> None:
        self.index = index
        self.envs = envs
        self.slice = slice(envs.start, envs.stop)
        self.ledger = Ledger()
        self.since = 0.0
        self.unfinished = False
        self.current_env: Any = None  # view of its element of `Arena.current_env`
        self.ready: Ready | None = None
        self.description: dict[str, Any] | None = None  # as it was at the first start

    @property
    def name(self) -> str:
        """Return the environments of the worker in words."""
        last = self.envs.stop - 1
        return f"environments {self.envs.start}-{last}" if last > self.envs.start else f"environment {last}"

    def activity(self) -> str:
        """Return in words what it is doing, as far as that is known from here."""
        owed = self.ledger.pending
        asked = owed[0].kind.__name__.lower() if owed else ""
        env = IDLE if self.current_env is None else int(self.current_env[0])
        if env != IDLE:
            return f"in {asked or 'a call'} of environment {env}{self._episode()}"
        if self.ready is None:
            return "while it built its environments"
        return f"with a {asked} to answer" if asked else "while it was idle"

    def _episode(self) -> str:
        """Return in words where in a rollout it is: results come in parts, so it may be a little further."""
        owed = self.ledger.pending[0] if self.ledger.pending else None
        if owed is None or not isinstance(owed.request, Rollout):
            return ""
        unanswered = owed.unanswered
        left = [entry for entry in owed.request.episodes if unanswered is None or entry[0] in unanswered]
        if not left:
            return ""
        episode, seed, *_ = left[0]
        later = " or one of those after it" if len(left) > 1 else ""
        return f", in episode {episode} (seed {seed}){later}"

    def concerned(self) -> tuple[int, ...]:
        """Return the environment that it is busy with if that is known, else all of its environments."""
        env = IDLE if self.current_env is None else int(self.current_env[0])
        return tuple(self.envs) if env == IDLE else (env,)


class RemoteWorker(Worker):
    """A worker in a process of its own.

    Attributes:
        handle: As its launcher sees it; None while it is not started.
        parent_pipe: Ends it with this process, on this machine.
        channel: Its connection; None while it has none.
        token: The secret that it has to prove.
        poll: Of its connection alone.
        episodes: How many episodes of rollouts it was given since it was started.
    """

    def __init__(self, index: int, envs: range) -> None:
        super().__init__(index, envs)
        self.handle: WorkerHandle | None = None
        self.parent_pipe: ParentPipe | None = None
        self.channel: Channel | None = None
        self.token = b""
        self.poll = select.poll()
        self.episodes = 0

    def __str__(self) -> str:
        pid = "not started" if self.handle is None else str(self.handle)
        return f"worker {self.index} ({pid}, {self.name})"

    @property
    def gone(self) -> bool:
        """Return whether it has to be started again before it can be asked anything."""
        return self.channel is None or self.ready is None or self.channel.connection.closing

    def connect(self, channel: Channel) -> None:
        """Use a connection, and its ledger."""
        self.channel, self.ledger, self.episodes = channel, channel.connection.ledger, 0

    def hang_up(self) -> None:
        """Let go of the connection, with all that is owed over it: an idle worker ends."""
        if self.channel is not None:
            self.channel.close()
            self.channel, self.ledger = None, Ledger()

    def release(self) -> None:
        """Let go of everything but the process, which the kernel then ends."""
        self.hang_up()
        if self.parent_pipe is not None:
            self.parent_pipe.close()

    @property
    def ended(self) -> bool:
        """Return whether its process is known to have ended."""
        return self.handle is not None and self.handle.poll() is not None

    def lost(self) -> WorkerError:
        """Return the error of asking it something while it is `gone`."""
        text = f"{self} is gone since an earlier error; call restart_workers() and reset, or close this vector env"
        return WorkerError(text, env_indices=tuple(self.envs))

    def death(self) -> WorkerLost:
        """Return the error of its end; waits a moment for its exit status."""
        status, deadline = None, time.monotonic() + 1.0
        handle = self.handle if self.handle is not None and self.handle.knows_end else None
        while handle is not None and (status := handle.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        text = f"{self} {exit_text(status)} {self.activity()}. Anything it wrote to stderr stands above"
        return WorkerLost(text, env_indices=self.concerned())


class LocalWorker(Worker):
    """All environments in this very process.

    Args:
        group: The environments.
    """

    def __init__(self, group: EnvGroup) -> None:
        super().__init__(0, range(group.count))
        self.group = group
        self.ledger.count = group.count
        self.ready = Ready(group.count, group.describe())
        self.description = self.ready.description

    def __str__(self) -> str:
        return f"this process ({self.name})"


def reported(worker: Worker, message: Failure, request: Pending | None = None) -> Fault:
    """Return a worker's report of a failure as a fault.

    Args:
        worker: Whose report.
        message: The report.
        request: The request that failed, None if it is not to be asked again.
    """
    env = worker.envs[message.env] if 0 <= message.env < len(worker.envs) else None
    place = str(worker) if env is None else f"environment {env}"
    error = remote_error(message, env, place, tuple(worker.envs))
    return Fault(error, dead=False, unanswered=() if request is None else (request,))


def local_fault(worker: LocalWorker, failed: RequestFailed, request: Pending | None = None) -> Fault:
    """Return what has failed in this process as a fault, as `reported` does."""
    fault = reported(worker, failed.message(), request)
    fault.error.__cause__ = failed.__cause__ or failed
    return fault
